"""Downloads against a server on the loopback that can break off and lie."""

import re
import shlex
import socket

import numpy as np
import pytest
from weights_server import serving

from memkd_jax.errors import DiskFullError, UserError
from memkd_jax.teachers import download

CONTENT = np.random.default_rng(0).bytes(1_000_000)
NAME = 'tiny_basic.tv_in1k.safetensors'
URL = '/tiny_basic.tv_in1k/resolve/main/model.safetensors'


@pytest.fixture
def server(monkeypatch):
  with serving(monkeypatch, 'tiny_basic', CONTENT) as server:
    yield server


@pytest.fixture
def out(tmp_path):
  return tmp_path / 'weights' / 'tiny.safetensors'


def fetch(out):
  return download.imagenet_weights('tiny_basic', out)


def test_the_file_is_downloaded_once(out, server):
  for _ in range(2):
    path = fetch(out)
  assert path == out.parent / NAME
  assert path.read_bytes() == CONTENT
  assert server.requests == [(URL, None)]
  assert [p.name for p in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize('redirects', [False, True])
def test_a_broken_download_is_resumed(out, server, capfd, redirects):
  server.breaks_after, server.redirects = 300_000, redirects
  with pytest.raises(UserError, match=r'could not be downloaded .*\.part is kept'):
    fetch(out)
  assert [p.name for p in out.parent.iterdir()] == [f'{NAME}.part']
  server.breaks_after = None
  server.requests.clear()
  assert fetch(out).read_bytes() == CONTENT
  assert {wanted for _, wanted in server.requests} == {'bytes=300000-'}
  assert len(server.requests) == 1 + redirects
  assert '1.00M/1.00M' in capfd.readouterr().err


def test_a_server_without_ranges_starts_again(out, server):
  part(out).write_bytes(b'x' * 500)
  server.knows_ranges = False
  assert fetch(out).read_bytes() == CONTENT


def part(out):
  out.parent.mkdir()
  return out.parent / f'{NAME}.part'


def test_a_part_that_is_whole_only_gets_its_name(out, server):
  part(out).write_bytes(CONTENT)
  assert fetch(out).read_bytes() == CONTENT
  assert server.requests == []


def test_a_part_that_is_too_long_is_begun_anew(out, server):
  part(out).write_bytes(CONTENT + b'x')
  assert fetch(out).read_bytes() == CONTENT


def test_other_content_is_thrown_away(out, server):
  server.content = CONTENT[:-1] + b'?'
  with pytest.raises(UserError, match='arrived damaged, or is another file'):
    fetch(out)
  assert list(out.parent.iterdir()) == []
  (out.parent / NAME).write_bytes(server.content)
  with pytest.raises(UserError, match='is not what its name promises'):
    fetch(out)


@pytest.mark.parametrize('size', [100, 2_000_000])
def test_a_file_of_another_size_is_not_even_stored(out, server, size):
  server.content = bytes(size)
  with pytest.raises(UserError, match=rf'it has {size:,} bytes instead of 1,000,000'):
    fetch(out)
  assert list(out.parent.iterdir()) == []


def test_what_never_ends_takes_no_more_room_than_the_file(out, server):
  server.content, server.announces = bytes(3_000_000), False
  with pytest.raises(UserError, match='arrived damaged'):
    fetch(out)
  assert list(out.parent.iterdir()) == []


def test_a_part_that_the_server_knows_nothing_of_is_removed(out, server):
  server.content = CONTENT[:400_000]
  part(out).write_bytes(CONTENT[:500_000])
  with pytest.raises(UserError, match='could not be downloaded'):
    fetch(out)
  assert list(out.parent.iterdir()) == []


def test_a_full_disk_is_told_as_one(tmp_path, server, mount_disk):
  with pytest.raises((OSError, DiskFullError), match='No space left') as error:
    fetch(mount_disk(500) / 'tiny.safetensors')
  assert error.value.filename.endswith(f'{NAME}.part')


def test_without_network_the_sentence_says_what_to_fetch(out, monkeypatch):
  published = download.Published(1, '')
  monkeypatch.setitem(download.FILES, 'tiny_basic', published)
  with socket.socket() as nobody_listens, pytest.raises(UserError) as error:
    nobody_listens.bind(('127.0.0.1', 0))
    url = f'http://127.0.0.1:{nobody_listens.getsockname()[1]}'
    monkeypatch.setenv(download.SERVER_VARIABLE, f'{url}/')
    fetch(out)
  path = out.parent / NAME
  assert re.fullmatch(
    rf'{url}{URL} could not be downloaded \(.*refused\): try again, or fetch that file '
    rf'elsewhere, save it as {path} and run `memkd weights --arch=tiny_basic '
    rf'--source={path} --out={out}`\.',
    str(error.value),
  )
  assert shlex.split(str(error.value).split('`')[1])[:2] == ['memkd', 'weights']


@pytest.mark.parametrize('url', ['nothing', 'http://', 'gopher://x', 'http://[', 'http://a b'])
def test_a_url_that_is_none(out, monkeypatch, url):
  monkeypatch.setitem(download.FILES, 'tiny_basic', download.Published(1, ''))
  monkeypatch.setenv(download.SERVER_VARIABLE, url)
  with pytest.raises(UserError, match='could not be downloaded'):
    fetch(out)


def test_every_backbone_has_its_v1_file():
  known = {arch: (file.size, file.sha256[:8]) for arch, file in download.FILES.items()}
  assert known == {
    'resnet18': (46_807_446, '694f673d'),
    'resnet34': (87_278_522, '0bb82595'),
    'resnet50': (102_469_840, '5d061a3c'),
    'wide_resnet50_2': (275_835_296, 'df6fb6c4'),
  }
  assert all(len(file.sha256) == 64 for file in download.FILES.values())
