"""Keeps other web sites and crowds out, and the page to itself; problems are JSON."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# data: and blob: are the pictures that the page shows.
_HEADERS: Mapping[str, str] = {
  'Content-Security-Policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
}
_OWN = ('same-origin', 'none')


class SecurityHeadersMiddleware:
  """ASGI middleware: refuses requests that other sites make, and adds security headers.

  Browsers say where a request comes from (Sec-Fetch-Site); programs say nothing.
  """

  def __init__(self, app: ASGIApp):
    """Wraps an app."""
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return

    async def sending(message: Message) -> None:
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        headers.update(_HEADERS)
        headers.setdefault('Cache-Control', 'no-store')
      await send(message)

    site = Headers(scope=scope).get('sec-fetch-site', 'none')
    if scope['method'] not in ('GET', 'HEAD') and site not in _OWN:
      refusal = JSONResponse({'detail': 'Another web site asked; use the page here.'}, 403)
      await refusal(scope, receive, sending)
      return
    await self._app(scope, receive, sending)


class JsonProblemsMiddleware:
  """ASGI middleware: what goes wrong is told as JSON, `{"detail": sentence}`.

  Libraries answer some problems as plain text before the app sees the request.
  """

  def __init__(self, app: ASGIApp, sentences: Mapping[str, str]):
    """Wraps an app.

    Args:
      app: the application that is wrapped.
      sentences: the sentence for each plain text that it replaces.
    """
    self._app, self._sentences = app, sentences

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on."""
    problem: Message | None = None
    text = b''

    async def sending(message: Message) -> None:
      nonlocal problem, text
      if message['type'] == 'http.response.start' and _is_plain_problem(message):
        problem = message
      elif problem is None:
        await send(message)
      else:
        text += message.get('body', b'')
        if not message.get('more_body', False):
          plain = text.decode(errors='replace')
          answer = JSONResponse(
            {'detail': self._sentences.get(plain, plain)}, problem['status']
          )
          await answer(scope, receive, send)

    await self._app(scope, receive, sending)


class CrowdMiddleware:
  """ASGI middleware: refuses requests while too many others are in progress."""

  def __init__(self, app: ASGIApp, most: int):
    """Wraps an app; at most `most` requests reach it at once."""
    self._app, self._most, self._number = app, most, 0

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    if self._number >= self._most:
      detail = 'Too many requests at once; try again soon.'
      refusal = JSONResponse({'detail': detail}, 503, {'Retry-After': '1'})
      await refusal(scope, receive, send)
      return
    self._number += 1
    try:
      await self._app(scope, receive, send)
    finally:
      self._number -= 1


def _is_plain_problem(start: Message) -> bool:
  kind = MutableHeaders(raw=start['headers']).get('content-type', '')
  return start['status'] >= 400 and kind.startswith('text/plain')
