"""Keeps other web sites out, and the page to itself."""

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
