"""PaDiM against scipy's Mahalanobis distance."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices

BOLT = Task.of_category('bolt', 0)


@pytest.fixture
def config(tiny_config):
  config = methods.get_config('folder', 'padim')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.eval.batch_size = 4
  config.method.channels = 9
  return config


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def test_maps_are_mahalanobis_distances(config, images, make_method, tmp_path):
  method = make_method(config, Devices(jax.devices()[:1]))
  params, diagnosis, _ = method.fit(BOLT, images, tmp_path)
  assert diagnosis == {}
  features = method._extractor(method._extractor.params, images, 3)
  side = features[0].shape[1]
  grids = []
  for feature in features:
    times = side // feature.shape[1]
    grids.append(np.kron(np.asarray(feature), np.ones((1, times, times, 1))))
  chosen = np.concatenate(grids, axis=-1)[..., params['channels']]
  expected = np.empty(chosen.shape[:3])
  for row in range(side):
    for column in range(side):
      samples = chosen[:, row, column]
      mean = samples.mean(0)
      covariance = np.cov(samples, rowvar=False) + 0.01 * np.eye(9)
      inverse = np.linalg.inv(covariance)
      for i, sample in enumerate(samples):
        expected[i, row, column] = mahalanobis(sample, mean, inverse)
  maps = method.maps(params, features, images)
  np.testing.assert_allclose(maps[0], expected, rtol=2e-3)


def test_the_model_depends_on_the_seed_alone(config, images, make_method, tmp_path):
  models = []
  for number, batch, seed in ((1, 4, 0), (4, 8, 0), (1, 4, 1)):
    config.eval.batch_size = batch
    method = make_method(config, Devices(jax.devices()[:number]))
    models.append(method.fit(Task.of_category('bolt', seed), images, tmp_path).params)
  np.testing.assert_array_equal(models[0]['channels'], models[1]['channels'])
  np.testing.assert_allclose(models[0]['mean'], models[1]['mean'], atol=1e-5)
  assert models[0]['channels'].tolist() != models[2]['channels'].tolist()


def test_the_order_of_images_does_not_matter(config, images, make_method, tmp_path):
  method = make_method(config, Devices(jax.devices()[:1]))
  one = method.fit(BOLT, images, tmp_path).params
  other = method.fit(BOLT, images[::-1].copy(), tmp_path).params
  features = method._extractor(method._extractor.params, images, 3)
  maps = [method.maps(params, features, images)[0] for params in (one, other)]
  np.testing.assert_allclose(*maps, rtol=1e-3)


def test_channels_are_as_many_as_there_are(config, images, make_method, tmp_path):
  config.method.channels = 10_000
  params = make_method(config, Devices(jax.devices()[:1])).fit(BOLT, images, tmp_path).params
  assert len(set(params['channels'].tolist())) == len(params['channels']) < 10_000


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [('stages', (), 'at least one'), ('regularization', 0.0, 'regularization=0.0')],
)
def test_what_cannot_be_is_refused(config, field, value, message):
  config.method[field] = value
  with pytest.raises(UserError, match=message):
    methods.resolve(config)
