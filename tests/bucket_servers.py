"""Real servers of buckets on loopback, behind a proxy that can be told to fail.

S3 is moto's server, GCS is gcp-storage-emulator, each a process of its own. The emulator
ignores `ifGenerationMatch=0`, GCS's "only where there is none yet"; the proxy answers it as
GCS does. moto looks for `If-None-Match: *` whether there is one, and writes after that; the
proxy lets one such request after the other through, so that it is one step, as in S3.
"""

import contextlib
import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

PROTOCOLS = ('gs', 's3')
PACKAGES = {'gs': ('gcsfs', 'gcp_storage_emulator'), 's3': ('s3fs', 'moto', 'flask_cors')}
BUCKET = 'parts'

# Takes (method, path, number of the request from 0); gives what is to go wrong, if anything:
# 'refuse' (503), 'cut' (the connection, within the request), 'lose' (the answer), 'slow'.
Fault = Callable[[str, str, int], str | None]


def missing(protocol: str) -> str | None:
  """Why there can be no such server here; None where there can."""
  absent = [name for name in PACKAGES[protocol] if importlib.util.find_spec(name) is None]
  return f'needs pip install "memkd_jax[buckets]" ({", ".join(absent)})' if absent else None


class Service:
  """A server of a bucket, and the proxy before it.

  Attributes:
    protocol: 'gs' or 's3'.
    environment: variables with which a process finds it.
    fault: see `Fault`.
    requests: that came so far, (method, path).
  """

  def __init__(self, protocol: str, port: int):
    self.protocol = protocol
    self.fault: Fault = lambda method, path, number: None
    self.requests: list[tuple[str, str]] = []
    self.upstream = port
    self.creating = threading.Lock()
    handler = type('Handler', (_Handler,), {'service': self})
    self._server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    self._server.daemon_threads = True
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    endpoint = f'http://127.0.0.1:{self._server.server_address[1]}'
    self.environment = {
      'gs': {
        'STORAGE_EMULATOR_HOST': endpoint,
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # else it asks by gRPC first
        'FSSPEC_GS_TOKEN': 'anon',
      },
      's3': {
        'AWS_ENDPOINT_URL': endpoint,
        'AWS_ACCESS_KEY_ID': 'key',
        'AWS_SECRET_ACCESS_KEY': 'secret',
        'AWS_DEFAULT_REGION': 'us-east-1',
        'AWS_MAX_ATTEMPTS': '1',
      },
    }[protocol]

  def url(self, name: str) -> str:
    """Of a folder in the bucket."""
    return f'{self.protocol}://{BUCKET}/{name}'

  def close(self) -> None:
    """Ends the proxy."""
    self._server.shutdown()
    self._server.server_close()


@contextlib.contextmanager
def started(protocol: str) -> Iterator[Service]:
  """A service with an empty bucket; this process finds it as well."""
  port = _free_port()
  scripts = Path(sys.executable).parent
  command = {
    'gs': [scripts / 'gcp-storage-emulator', 'start', '--host=127.0.0.1', f'--port={port}'],
    's3': [scripts / 'moto_server', '-H', '127.0.0.1', '-p', str(port)],
  }[protocol]
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    if protocol == 'gs':
      command += ['--in-memory']
    log = stack.enter_context(open(Path(folder, 'log'), 'w'))
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    stack.callback(process.wait)
    stack.callback(process.kill)
    _wait_for(port, process)
    service = Service(protocol, port)
    stack.callback(service.close)
    before = {name: os.environ.get(name) for name in service.environment}
    stack.callback(_set, before)
    _set(service.environment)
    import fsspec

    fsspec.config.conf.setdefault('gs', {})['token'] = 'anon'
    # What was made for an earlier server would look for it still.
    fsspec.get_filesystem_class(protocol).clear_instance_cache()
    fsspec.filesystem(protocol, skip_instance_cache=True).mkdir(BUCKET)
    yield service


def _set(variables: dict[str, str | None]) -> None:
  for name, value in variables.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value


def _free_port() -> int:
  with socket.socket() as own:
    own.bind(('127.0.0.1', 0))
    return int(own.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen) -> None:
  for _ in range(600):
    assert process.poll() is None, 'the server of buckets has ended'
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 1):
      return
    time.sleep(0.1)
  raise AssertionError('the server of buckets does not answer')


class _Handler(BaseHTTPRequestHandler):
  """Passes a request on, and the answer back."""

  protocol_version = 'HTTP/1.1'
  service: Service

  def handle_one_request(self) -> None:
    with contextlib.suppress(OSError):
      super().handle_one_request()

  def _pass_on(self) -> None:
    service = self.service
    number = len(service.requests)
    service.requests.append((self.command, self.path))
    fault = service.fault(self.command, self.path, number)
    size = int(self.headers.get('Content-Length') or 0)
    if fault == 'cut':
      self.rfile.read(size // 2)
      return self._hang_up()
    body = self._read_chunks() if self._in_chunks() else self.rfile.read(size)
    service.requests[number] = (self.command, f'{self.path} {_name_in(body)}')
    if len(body) < size:
      return self._hang_up()
    if fault == 'refuse':
      return self._answer(503, {}, b'')
    if fault == 'slow':
      time.sleep(1)
    if 'ifGenerationMatch=0' in self.path:
      with service.creating:
        answer = (412, {}, b'{}') if self._is_there(body) else self._ask(body)
    elif 'If-None-Match' in self.headers:
      with service.creating:
        answer = self._ask(body)
    else:
      answer = self._ask(body)
    if fault == 'lose':
      return self._hang_up()
    return self._answer(*answer)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _pass_on  # noqa: N815

  def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection('127.0.0.1', self.service.upstream, timeout=60)
    headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_A_HOP}
    try:
      connection.request(self.command, self.path, body, headers | {'Connection': 'close'})
      answer = connection.getresponse()
      return answer.status, dict(answer.getheaders()), answer.read()
    finally:
      connection.close()

  def _is_there(self, body: bytes) -> bool:
    connection = http.client.HTTPConnection('127.0.0.1', self.service.upstream, timeout=60)
    try:
      name = quote(_name_in(body), safe='')
      connection.request('GET', f'/storage/v1/b/{BUCKET}/o/{name}')
      return connection.getresponse().status == 200
    finally:
      connection.close()

  def _in_chunks(self) -> bool:
    return 'chunked' in self.headers.get('Transfer-Encoding', '')

  def _read_chunks(self) -> bytes:
    content = b''
    while size := int(self.rfile.readline().split(b';')[0], 16):
      content += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return content

  def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
    self.send_response_only(status)
    for name, value in headers.items():
      if name.lower() not in _OF_A_HOP or (self.command == 'HEAD' and 'ength' in name):
        self.send_header(name, value)
    if self.command != 'HEAD':
      self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def _hang_up(self) -> None:
    self.close_connection = True
    with contextlib.suppress(OSError):
      self.connection.shutdown(socket.SHUT_RDWR)

  def log_message(self, format: str, *args: object) -> None:
    """Says nothing."""


def _name_in(body: bytes) -> str:
  """The name of the object that an upload to GCS is of."""
  found = re.search(rb'"name": *"([^"]+)"', body[:2000])
  return found[1].decode() if found else ''


_OF_A_HOP = (
  'connection',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'transfer-encoding',
)
