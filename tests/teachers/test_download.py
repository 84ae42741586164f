"""Downloads against a server on the loopback that can break off and lie."""

import hashlib
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.teachers import download

CONTENT = np.random.default_rng(0).bytes(1_000_000)
NAME = f'tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth'


class Server(ThreadingHTTPServer):
  """Serves `content`; notes what is asked for."""

  content = CONTENT
  breaks_after = None  # bytes of an answer
  knows_ranges = True

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.requests = []

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
  def do_GET(self):
    server, wanted = self.server, self.headers.get('Range')
    server.requests.append((self.path, wanted))
    start = int(re.fullmatch(r'bytes=(\d+)-', wanted)[1]) if wanted else 0
    start = start if server.knows_ranges else 0
    if start and start >= len(server.content):
      return self.send_error(416)
    rest = server.content[start:]
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(rest)))
    self.end_headers()
    self.wfile.write(rest[: server.breaks_after])

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setitem(download.FILES, 'tiny_basic', NAME)
  with Server() as server:
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def test_the_file_is_downloaded_once(tmp_path, server):
  for _ in range(2):
    path = download.imagenet_weights('tiny_basic', tmp_path / 'weights', server.url)
  assert path == tmp_path / 'weights' / NAME
  assert path.read_bytes() == CONTENT
  assert server.requests == [(f'/{NAME}', None)]
  assert [p.name for p in path.parent.iterdir()] == [NAME]


def test_a_broken_download_is_resumed(tmp_path, server, capfd):
  server.breaks_after = 300_000
  with pytest.raises(UserError, match=r'could not be downloaded .*\.part is kept'):
    download.imagenet_weights('tiny_basic', tmp_path, server.url)
  assert not (tmp_path / NAME).exists()
  server.breaks_after = None
  path = download.imagenet_weights('tiny_basic', tmp_path, server.url)
  assert path.read_bytes() == CONTENT
  assert [wanted for _, wanted in server.requests] == [None, 'bytes=300000-']
  assert '1.00M/1.00M' in capfd.readouterr().err


def test_a_server_without_ranges_starts_again(tmp_path, server):
  (tmp_path / f'{NAME}.part').write_bytes(b'x' * 500)
  server.knows_ranges = False
  assert download.imagenet_weights('tiny_basic', tmp_path, server.url).read_bytes() == CONTENT


def test_a_part_that_is_whole_only_gets_its_name(tmp_path, server):
  (tmp_path / f'{NAME}.part').write_bytes(CONTENT)
  assert download.imagenet_weights('tiny_basic', tmp_path, server.url).read_bytes() == CONTENT


def test_other_content_is_thrown_away(tmp_path, server):
  server.content = CONTENT[:-1] + b'?'
  with pytest.raises(UserError, match='arrived damaged'):
    download.imagenet_weights('tiny_basic', tmp_path, server.url)
  assert list(tmp_path.iterdir()) == []
  (tmp_path / NAME).write_bytes(server.content)
  with pytest.raises(UserError, match='is not the file that its name promises'):
    download.imagenet_weights('tiny_basic', tmp_path, server.url)


def test_without_network_the_sentence_says_what_to_fetch(tmp_path, monkeypatch):
  monkeypatch.setitem(download.FILES, 'tiny_basic', NAME)
  with socket.socket() as nobody_listens, pytest.raises(UserError) as error:
    nobody_listens.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{nobody_listens.getsockname()[1]}'
    download.imagenet_weights('tiny_basic', tmp_path, url)
  assert re.fullmatch(
    rf'{url}/{NAME} could not be downloaded \(.*refused\): try again, or fetch that file '
    rf'elsewhere and pass it as --source={NAME}\.',
    str(error.value),
  )


def test_every_backbone_has_its_v1_file():
  assert download.FILES == {
    'resnet18': 'resnet18-f37072fd.pth',
    'resnet34': 'resnet34-b627a593.pth',
    'resnet50': 'resnet50-0676ba61.pth',
    'wide_resnet50_2': 'wide_resnet50_2-95faca4d.pth',
  }
