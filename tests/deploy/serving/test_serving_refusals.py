"""What the server refuses: hostile files, broken forms, too much, other sites and crowds."""

import asyncio
import io
import struct
import zlib
from unittest import mock

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from PIL import Image
from serving_client import BASE, GOOD, LIMITS, post
from starlette.datastructures import UploadFile

from memkd_jax.deploy.serving import app as serving_app
from memkd_jax.deploy.serving import uploads
from memkd_jax.deploy.serving.app import create_app
from memkd_jax.deploy.serving.uploads import Limits


def png_of_size(width, height, data=b''):
  """A PNG whose header promises more than its data hold."""

  def chunk(kind, content):
    return (
      struct.pack('>I', len(content))
      + kind
      + content
      + struct.pack('>I', zlib.crc32(kind + content))
    )

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
  )


BOMB = zlib.compress(bytes(30_000_000))
HOSTILE = {
  'empty': (b'', 415),
  'text': (b'hello', 415),
  'svg': (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 415),
  'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 415),
  'truncated': (GOOD[: len(GOOD) // 2], 422),
  'bomb': (png_of_size(60_000, 60_000, BOMB), 422),
  'huge': (png_of_size(2**31 - 1, 2**31 - 1), 422),
  'hollow': (png_of_size(9_000, 9_000), 422),
  'no width': (png_of_size(0, 5), 415),
  'jpeg': (b'\xff\xd8\xff\xe0' + bytes(50), 415),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_images_are_refused(client, case):
  content, status = HOSTILE[case]
  response = post(client, GOOD, content, names=['good.png', 'bad.png'])
  assert response.status_code == status, response.text
  assert 'bad.png' in response.json()['detail']
  assert '\n' not in response.json()['detail']
  assert post(client, GOOD).status_code == 200


@pytest.mark.parametrize(
  'name', ['../../etc/passwd', '<img src=x onerror=alert(1)>.png', 'a\x1b[31m.png', 'x' * 1000]
)
def test_names_are_only_repeated(client, name):
  with mock.patch('builtins.open', side_effect=AssertionError('a file was opened')):
    good = post(client, GOOD, names=[name])
    bad = post(client, b'', names=[name])
  assert good.status_code == 200
  assert len(good.json()['images'][0]['name']) <= 200
  assert good.headers['content-type'] == bad.headers['content-type'] == 'application/json'
  assert bad.status_code == 415
  assert bad.json()['detail'].isprintable()


def test_requests_without_images(client):
  assert post(client, GOOD, field='file').status_code == 400
  assert client.post('/api/score?category=bolt').status_code == 400
  assert client.post('/api/score?category=bolt', data={'images': 'a text'}).status_code == 400
  assert client.get('/api/score').status_code == 405


@pytest.mark.parametrize(
  ('kind', 'body'),
  [
    ('multipart/form-data', b'no boundary'),
    ('multipart/form-data; boundary=b', b'--c\r\n\r\n'),
    ('multipart/form-data; boundary=b', b'--b\r\nnonsense\r\n\r\nx'),
    ('multipart/form-data; boundary=b', b'--b\r\nContent-Disposition: \xff\r\n\r\nx\r\n--b--'),
    (
      'multipart/form-data; boundary=b; charset=nonsense',
      b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nx\r\n--b--',
    ),
    ('multipart/form-data; boundary=' + 'b' * 5000, b'--b'),
    ('application/json', b'{"images": []}'),
    ('image/png', GOOD),
  ],
)
def test_broken_forms_are_refused(client, kind, body):
  response = client.post(
    '/api/score?category=bolt', content=body, headers={'content-type': kind}
  )
  assert response.status_code == 400, response.text
  assert post(client, GOOD).status_code == 200


@pytest.mark.parametrize('number', [6, 7, 1000])
def test_too_many_images(client, number):
  response = post(client, *[b'x'] * number)
  assert response.status_code == 413
  assert 'more than 5 images' in response.json()['detail']


def test_too_many_bytes(client):
  headers = {'content-type': 'multipart/form-data; boundary=b'}
  declared = {'content-length': str(LIMITS.bytes + 1)}
  response = client.post('/api/score?category=bolt', content=b'', headers=headers | declared)
  assert response.status_code == 413
  assert f'{LIMITS.bytes:,}' in response.json()['detail']
  assert post(client, bytes(LIMITS.bytes)).status_code == 413


def test_the_rest_of_an_endless_body_is_not_received():
  """Whatever length was declared."""
  received = []

  async def receive():
    received.append(10_000)
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    body = body if len(received) == 1 else bytes(10_000)
    return {'type': 'http.request', 'body': body, 'more_body': True}

  headers = [(b'content-type', b'multipart/form-data; boundary=b'), (b'content-length', b'1')]
  request = Request({'type': 'http', 'headers': headers}, receive)
  with pytest.raises(HTTPException) as caught:
    asyncio.run(uploads.receive_form(request, LIMITS))
  assert caught.value.status_code == 413
  assert sum(received) <= LIMITS.bytes + 20_000


def test_a_body_that_does_not_come_is_given_up():
  async def receive():
    await asyncio.sleep(60)

  headers = [(b'content-type', b'multipart/form-data; boundary=b')]
  request = Request({'type': 'http', 'headers': headers}, receive)
  with pytest.raises(HTTPException) as caught:
    asyncio.run(uploads.receive_form(request, Limits(100, 1, seconds=0.01)))
  assert caught.value.status_code == 408


def test_a_busy_server_says_so(client, detectors):
  batcher = client.app.state.service.batcher
  with batcher.admit(64):
    response = post(client, GOOD)
  assert response.status_code == 503
  assert response.headers['retry-after'] == '1'
  with batcher.admit(62):
    assert post(client, GOOD, GOOD, GOOD).status_code == 503
    assert post(client, GOOD, GOOD).status_code == 200
  assert batcher.admitted == 0


def test_a_failing_detector_does_not_end_the_server(client, detectors):
  with mock.patch.object(
    detectors['bolt'], 'score_tiles', side_effect=MemoryError('no memory')
  ):
    response = post(client, GOOD)
  assert response.status_code == 500
  assert response.json() == {'detail': 'The server failed; its log says why.'}
  assert post(client, GOOD).status_code == 200


def test_all_files_are_closed(client):
  files = []
  init = UploadFile.__init__

  def remember(self, *arguments, **named):
    init(self, *arguments, **named)
    files.append(self.file)

  with mock.patch.object(UploadFile, '__init__', remember):
    post(client, GOOD, b'')
    post(client, GOOD)
  assert len(files) == 3
  assert all(file.closed for file in files)


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    ('127.0.0.1:8000', 200),
    ('localhost:9', 200),
    ('[::1]:8000', 200),
    ('evil.example', 400),
    ('127.0.0.1.evil.example', 400),
    ('', 400),
  ],
)
def test_only_loopback_names_are_answered(client, host, status):
  response = client.get('/healthz', headers={'host': host})
  assert response.status_code == status
  if status == 400:
    assert '--host=ADDRESS' in response.json()['detail']
    assert response.headers['x-content-type-options'] == 'nosniff'


@pytest.mark.parametrize(
  ('method', 'path', 'status'),
  [
    ('GET', '/none', 404),
    ('GET', '/api/score', 405),
    ('DELETE', '/healthz', 405),
    ('POST', '/api/score?category=bolt&overlay=perhaps', 422),
    ('POST', '/api/score?category=none', 404),
    ('POST', '/api/score?category=bolt', 400),
  ],
)
def test_every_problem_is_a_sentence_in_json(client, method, path, status):
  response = client.request(method, path)
  assert response.status_code == status
  detail = response.json()['detail']
  assert isinstance(detail, str)
  assert detail.endswith('.')


def test_a_crowd_is_refused_in_json(detectors, monkeypatch):
  monkeypatch.setattr(serving_app, 'CROWD', 0)
  client = TestClient(create_app(detectors, LIMITS), base_url=BASE)
  response = client.get('/api/models')
  assert response.status_code == 503
  assert 'Too many requests' in response.json()['detail']
  assert response.headers['retry-after'] == '1'


def test_several_pages_are_refused_by_name(client):
  pages = [Image.new('RGB', (8, 8), (value, 0, 0)) for value in (0, 200)]
  stream = io.BytesIO()
  pages[0].save(stream, 'TIFF', save_all=True, append_images=pages[1:])
  response = post(client, stream.getvalue(), names=['two.tif'])
  assert response.status_code == 422
  assert response.json()['detail'].startswith('two.tif holds 2 pages or frames')


def test_other_sites_are_refused(client):
  def ask(site):
    return client.post(
      '/api/score?category=bolt', files={'images': GOOD}, headers={'sec-fetch-site': site}
    )

  assert ask('same-origin').status_code == 200
  for site in ('cross-site', 'same-site'):
    assert ask(site).status_code == 403
  assert 'access-control-allow-origin' not in ask('same-origin').headers
