"""kNN against scikit-learn, and through everything that a method gets for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

import memkd_jax
from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.methods.patches import local_mean
from memkd_jax.run import run_config
from memkd_jax.runtime.devices import Devices


@pytest.fixture
def knn_config(tiny_config):
  config = methods.get_config('folder', 'knn')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.eval.batch_size = 4
  config.method.share = 0.5
  return config


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def test_means_are_those_of_scipy_with_zeros_around(rng):
  features = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
  for side in (1, 3, 5):
    expected = ndimage.uniform_filter(features, (0, side, side, 0), mode='constant')
    np.testing.assert_allclose(local_mean(jnp.asarray(features), side), expected, atol=1e-6)


def test_maps_are_distances_to_the_chosen_patches(knn_config, images, make_method, tmp_path):
  """From features to maps by loops and scikit-learn."""
  method = make_method(knn_config, Devices(jax.devices()[:1]))
  params, diagnosis, _ = method.fit(Task.of_category('bolt', 0), images, tmp_path)
  assert diagnosis == {}
  extractor = method._patches._extractor
  features = [np.asarray(f) for f in extractor(extractor.params, images, 3)]
  fine, coarse = (
    ndimage.uniform_filter(f, (0, 3, 3, 0), mode='constant') for f in features[1:3]
  )
  twice = np.stack([jax.image.resize(c, (8, 8, c.shape[-1]), 'bilinear') for c in coarse])
  patches = np.concatenate([fine, twice], -1)
  rows = patches.reshape(-1, patches.shape[-1])
  assert len(params['memory']) == len(rows) // 2
  distance, _ = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors(params['memory'])
  assert distance.max() < 1e-3  # all are patches of these images
  expected, _ = NearestNeighbors(n_neighbors=1).fit(params['memory']).kneighbors(rows)
  maps = method.maps(params, extractor(extractor.params, images, 3), images)
  np.testing.assert_allclose(maps[0], expected.reshape(7, 8, 8), atol=1e-2)
  scores = method.image_scores(params, (), maps, None)
  np.testing.assert_array_equal(scores, np.asarray(maps[0]).max((1, 2)))


@pytest.mark.parametrize('name', ['knn', 'patchcore'])
def test_products_may_be_of_bfloat16(knn_config, images, make_method, tmp_path, name):
  config = methods.get_config('folder', name)
  config.data, config.model = knn_config.data, knn_config.model
  assert config.method.products == 'float32'
  maps = []
  for products in ('float32', 'bfloat16'):
    config.method.products = products
    method = make_method(config, Devices(jax.devices()[:1]))
    params = method.fit(Task.of_category('bolt', 0), images, tmp_path).params
    extractor = method._patches._extractor
    features = extractor(extractor.params, images, 3)
    maps.append(np.asarray(method.maps(params, features, images)[0]))
  difference = np.abs(maps[1] - maps[0]).max()
  assert 0 < difference < 0.05 * maps[0].max()


def test_the_memory_depends_on_the_seed_alone(knn_config, images, make_method, tmp_path):
  memories = []
  for number, batch, seed in ((1, 4, 0), (1, 3, 0), (4, 4, 0), (1, 4, 1)):
    knn_config.eval.batch_size = batch
    method = make_method(knn_config, Devices(jax.devices()[:number]))
    task = Task.of_category('bolt', seed)
    memories.append(method.fit(task, images, tmp_path).params['memory'])
  np.testing.assert_allclose(memories[0], memories[1], atol=1e-5)
  np.testing.assert_allclose(memories[0], memories[2], atol=1e-5)
  assert np.abs(memories[0] - memories[3]).max() > 1e-3


def test_it_has_all_that_a_method_has(knn_config, tmp_path, make_category):
  """Training, thresholds, report, detector: nothing of them is known to the method."""
  make_category(tmp_path / 'data', train=12)
  knn_config.train.holdout = 0.25
  results = run_config(knn_config, tmp_path / 'run')
  assert results['failed'] == {}
  assert results['method'] == 'kNN'
  assert results['categories']['bolt']['I-AUC'] == 1  # a white square among dark noise
  assert 'kNN' in (tmp_path / 'run' / 'report.html').read_text()
  detector = memkd_jax.load(tmp_path / 'run', false_alarm_rate=0.3)
  assert len(detector.calibration.scores) == 3
  result = detector(np.full((1, 32, 32, 3), 255, np.uint8))
  assert result.decisions.tolist() == [True]


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [('neighbourhood', 2, 'is odd'), ('stages', (), 'at least one'), ('share', 0.0, 'share=0.0')],
)
def test_what_cannot_be_is_refused(knn_config, field, value, message):
  knn_config.method[field] = value
  with pytest.raises(UserError, match=message):
    methods.resolve(knn_config)
