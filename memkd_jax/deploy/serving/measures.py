"""What the server counts for Prometheus."""

import time
from typing import Any

from prometheus_client import (
  CollectorRegistry,
  Counter,
  Gauge,
  Histogram,
  PlatformCollector,
  ProcessCollector,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
  """Counters of one server, in a registry of their own."""

  def __init__(self) -> None:
    """Starts at zero."""
    self.registry = CollectorRegistry()
    ProcessCollector(registry=self.registry)
    PlatformCollector(registry=self.registry)
    to: dict[str, Any] = {'registry': self.registry}
    self.requests = Counter(
      'memkd_requests', 'Requests by path and status.', ['path', 'status'], **to
    )
    self.seconds = Histogram(
      'memkd_request_seconds', 'Time to the whole answer.', ['path'], buckets=_SECONDS, **to
    )
    self.images = Counter(
      'memkd_images', 'Images scored, by decision.', ['category', 'decision'], **to
    )
    self.batch_images = Histogram(
      'memkd_batch_images', 'Images scored at once.', buckets=_IMAGES, **to
    )
    self.batch_seconds = Histogram(
      'memkd_batch_seconds', 'Time to score a batch.', buckets=_SECONDS, **to
    )
    self.queue = Gauge(
      'memkd_queue_images', 'Images being received, decoded, waiting, or scored.', **to
    )
    self.ready = Gauge('memkd_ready', '1 when all models are compiled.', **to)

  def on_batch(self, images: int, seconds: float) -> None:
    """Counts one call of a detector."""
    self.batch_images.observe(images)
    self.batch_seconds.observe(seconds)


class MetricsMiddleware:
  """ASGI middleware that counts requests."""

  def __init__(self, app: ASGIApp, measures: Measures):
    """Wraps an app."""
    self._app = app
    self._measures = measures

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    status = 500  # of an exception that no one has answered
    begin = time.monotonic()

    async def sending(message: Message) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
      await send(message)

    try:
      await self._app(scope, receive, sending)
    finally:
      path = _route(scope)
      self._measures.requests.labels(path, str(status)).inc()
      self._measures.seconds.labels(path).observe(time.monotonic() - begin)


def _route(scope: dict[str, Any] | Any) -> str:
  """The path as the app declares it; what clients make up must not become labels."""
  return str(getattr(scope.get('route'), 'path', 'other'))
