"""The endpoints: scores, models, metrics, and the pages."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serving_client import BASE, GOOD, LIMITS, counted, encoded, post, texture

from memkd_jax.deploy import serving
from memkd_jax.deploy.serving.app import create_app
from memkd_jax.scoring.regions import find_regions, outline

STATIC = Path(serving.__file__).with_name('static')


@pytest.mark.parametrize('category', ['bolt', 'nut'])
def test_scores_are_the_detectors(client, detectors, category):
  images = [texture(i) for i in range(5)]
  response = post(client, *map(encoded, images), category=category, regions=True)
  assert response.status_code == 200
  answer = response.json()
  result = detectors[category](images)
  assert answer['category'] == category
  assert answer['threshold'] == detectors[category].threshold.value
  got = answer['images']
  assert [i['name'] for i in got] == [f'{i}.png' for i in range(5)]
  np.testing.assert_allclose([i['score'] for i in got], result.scores, rtol=1e-5)
  assert [i['p_value'] for i in got] == list(result.p_values)
  assert [i['anomalous'] for i in got] == list(result.decisions)
  assert {(i['width'], i['height'], i['heat_map']) for i in got} == {(32, 32, None)}
  threshold = detectors[category].pixel_threshold()
  for image, map_, decision in zip(got, result.maps, result.decisions, strict=True):
    expected = find_regions(map_, threshold) if decision else []
    assert [r['area'] for r in image['regions']] == [r.area for r in expected]
    assert all(r['outline'] is None for r in image['regions'])
  assert any(image['regions'] for image in got) or not result.decisions.any()
  plain = post(client, encoded(images[0]), category=category).json()['images'][0]
  assert plain['regions'] is None


def test_overlays_are_pictures(client):
  pixels = texture(1)
  image = post(client, encoded(pixels), overlay=True).json()['images'][0]

  def decode(url):
    kind, content = url.split(',')
    assert kind == 'data:image/png;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))

  np.testing.assert_array_equal(decode(image['picture']), pixels)
  assert decode(image['heat_map']).shape == (32, 32, 3)
  assert (decode(image['heat_map']) != pixels).any()


def test_outlines_come_with_overlays(client, detectors):
  image = post(client, *[encoded(texture(i)) for i in range(5)], overlay=True).json()['images']
  result = detectors['bolt']([texture(i) for i in range(5)])
  threshold = detectors['bolt'].pixel_threshold()
  for got, map_, decision in zip(image, result.maps, result.decisions, strict=True):
    expected = find_regions(map_, threshold) if decision else []
    lines = [[list(corner) for corner in outline(region)] for region in expected]
    assert [r['outline'] for r in got['regions']] == lines
  assert result.decisions.any()


def test_sizes_are_those_of_the_file(client):
  content = encoded(np.zeros((20, 50, 3), np.uint8), 'BMP')
  image = post(client, content).json()['images'][0]
  assert (image['width'], image['height']) == (50, 20)


def test_concurrent_requests_share_batches(client, detectors):
  images = [texture(seed) for seed in range(24)]
  expected = detectors['bolt'](images).scores
  before = counted(client, 'memkd_batch_images_count')
  with ThreadPoolExecutor(24) as pool:
    answers = list(pool.map(lambda image: post(client, encoded(image)).json(), images))
  scores = [answer['images'][0]['score'] for answer in answers]
  np.testing.assert_allclose(scores, expected, rtol=1e-4)
  assert counted(client, 'memkd_batch_images_count') - before < 24


def test_categories(client):
  assert post(client, GOOD, category='screw').status_code == 404
  response = client.post('/api/score', files={'images': GOOD})
  assert response.status_code == 400
  assert 'bolt, nut' in response.json()['detail']


def test_metrics(client):
  line = 'memkd_requests_total{path="/api/score",status="415"}'
  before = counted(client, line)
  images = [
    f'memkd_images_total{{category="bolt",decision="{d}"}}' for d in ('normal', 'anomalous')
  ]
  scored = sum(counted(client, i) for i in images)
  post(client, b'')
  post(client, GOOD, GOOD)
  client.get('/a/path/that/someone/made/up')
  assert counted(client, line) == before + 1
  assert sum(counted(client, i) for i in images) == scored + 2
  assert counted(client, 'memkd_queue_images') == 0
  assert counted(client, 'memkd_ready') == 1
  text = client.get('/metrics').text
  assert 'memkd_request_seconds_bucket{le="0.1",path="/api/score"}' in text
  assert 'made' not in text


def test_models_and_health(client, detectors):
  assert client.get('/healthz').json() == {'status': 'ready'}
  answer = client.get('/api/models').json()
  assert answer['limits'] == {'bytes': LIMITS.bytes, 'images': LIMITS.images}
  assert [m['category'] for m in answer['models']] == ['bolt', 'nut']
  assert answer['models'][0]['threshold']['value'] == detectors['bolt'].threshold.value
  assert answer['models'][0]['notes'] == detectors['bolt'].notes


def test_health_before_and_without_compilation(detectors):
  app = create_app(detectors, LIMITS)
  client = TestClient(app, base_url=BASE)  # not entered: nothing is compiled
  assert client.get('/healthz').status_code == 503
  response = post(client, GOOD)
  assert response.status_code == 503
  assert response.headers['retry-after'] == '5'
  failures = []
  app = create_app(detectors, LIMITS, on_compiled=failures.append)
  error = MemoryError('no memory')
  with (
    mock.patch.object(type(detectors['bolt']), 'compile', side_effect=error),
    TestClient(app, base_url=BASE) as client,
  ):
    while not failures:
      pass
    assert client.get('/healthz').json() == {'status': 'failed'}
  assert failures == [error]


def test_the_bits_of_the_training_images_hold_for_uploads(client, detectors, monkeypatch):
  grey = texture(3)[..., 0]
  expected = post(client, encoded(grey)).json()
  monkeypatch.setattr(detectors['bolt'], 'bits', 12)
  answer = post(client, encoded(np.round(grey * (4095 / 255)).astype(np.uint16))).json()
  assert answer['images'][0]['score'] == pytest.approx(expected['images'][0]['score'], 1e-5)
  assert 'read as 12-bit values' in answer['notes'][-1]
  answer = post(client, encoded(np.full((32, 32), 5000, np.uint16))).json()
  assert '1 image holds values above 4095' in answer['notes'][-1]


def test_pages_need_nothing_from_elsewhere(client):
  served = [f'/{file.name}' for file in STATIC.iterdir() if file.suffix != '.html']
  assert {'/page.js', '/page.css', '/docs.js'} < set(served)
  for path in ('/', '/docs', *served):
    response = client.get(path)
    assert response.status_code == 200
    assert '//' not in response.text.replace('// ', '')
    assert 'innerHTML' not in response.text
    policy = response.headers['content-security-policy']
    assert policy.startswith("default-src 'none'")
    assert 'unsafe' not in policy
    assert 'http' not in policy
  assert client.get('/page.html').status_code == 404
  assert client.get('/static/../app.py').status_code == 404


def test_the_description_matches(client):
  api = client.get('/openapi.json').json()
  assert set(api['paths']) == {'/api/models', '/api/score', '/healthz', '/metrics'}
  score = api['paths']['/api/score']['post']
  assert {'200', '400', '404', '413', '415', '422', '503'} <= set(score['responses'])
  form = score['requestBody']['content']['multipart/form-data']['schema']
  further = ['xyz', 'depth', 'depth_info', 'normals']
  assert list(form['properties']) == ['images', *further]
