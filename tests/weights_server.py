"""A server of weights on the loopback that can break off, redirect and lie."""

import hashlib
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from memkd_jax.teachers import download


class Server(ThreadingHTTPServer):
  """Serves `content` under any path; notes what is asked for."""

  breaks_after = None  # bytes of an answer
  knows_ranges = True
  redirects = False  # as the real one does, to where the content lies
  announces = True

  def __init__(self, content):
    super().__init__(('127.0.0.1', 0), Handler)
    self.content = content
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
  def do_GET(self):
    server, wanted = self.server, self.headers.get('Range')
    server.requests.append((self.path, wanted))
    if server.redirects and not self.path.startswith('/elsewhere'):
      self.send_response(302)
      self.send_header('Location', '/elsewhere?signed=1')
      self.send_header('Content-Length', '0')
      return self.end_headers()
    start = int(re.fullmatch(r'bytes=(\d+)-', wanted)[1]) if wanted else 0
    start = start if server.knows_ranges else 0
    if start and start >= len(server.content):
      return self.send_error(416)
    rest = server.content[start:]
    self.send_response(206 if start else 200)
    if server.announces:
      self.send_header('Content-Length', str(len(rest)))
    self.end_headers()
    self.wfile.write(rest[: server.breaks_after])

  def log_message(self, *_):
    pass


@contextmanager
def serving(monkeypatch, arch, content):
  """Serves `content` as the published weights of an architecture."""
  published = download.Published(len(content), hashlib.sha256(content).hexdigest())
  monkeypatch.setitem(download.FILES, arch, published)
  with Server(content) as server:
    monkeypatch.setenv(download.SERVER_VARIABLE, server.url)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
