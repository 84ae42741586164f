"""SPADE against loops and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods import spade
from memkd_jax.methods.base import Task
from memkd_jax.ops import portable
from memkd_jax.runtime.devices import Devices

BOLT = Task.of_category('bolt', 0)


@pytest.fixture
def config(tiny_config):
  config = methods.get_config('folder', 'spade')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.eval.batch_size = 4
  config.method.images = 3
  return config


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def test_maps_and_scores_are_those_of_a_slow_twin(config, images, make_method, tmp_path, rng):
  method = make_method(config, Devices(jax.devices()[:1]))
  params, diagnosis, _ = method.fit(BOLT, images, tmp_path)
  assert diagnosis == {}
  others = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
  known, new = (
    [np.asarray(f) for f in method._extractor(method._extractor.params, x, 3)]
    for x in (images, others)
  )
  search = NearestNeighbors(n_neighbors=3).fit(known[-1].mean((1, 2)))
  distances, nearest = search.kneighbors(new[-1].mean((1, 2)))
  features = method._extractor(method._extractor.params, others, 3)
  maps = method.maps(params, features, others)
  np.testing.assert_allclose(
    method.image_scores(params, features, maps, None), distances.mean(1), rtol=1e-3
  )
  for k in (1, 2, 3):
    for i in range(4):
      rows = known[k - 1][nearest[i]].reshape(-1, known[k - 1].shape[-1])
      queries = new[k - 1][i].reshape(-1, rows.shape[-1])
      expected, _ = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors(queries)
      found = np.asarray(maps[k][i]).ravel()
      np.testing.assert_allclose(found, expected[:, 0], rtol=1e-2, atol=1e-2)


def test_a_training_image_is_at_no_distance(config, images, make_method, tmp_path):
  config.method.images = 1
  method = make_method(config, Devices(jax.devices()[:1]))
  params = method.fit(BOLT, images, tmp_path).params
  features = method._extractor(method._extractor.params, images, 3)
  maps = method.maps(params, features, images)
  scores = method.image_scores(params, features, maps, None)
  assert max(np.asarray(m).max() for m in maps.values()) < 0.05
  assert np.asarray(scores).max() < 0.01


def test_no_stage_is_refused(config):
  config.method.stages = ()
  with pytest.raises(UserError, match='at least one'):
    methods.resolve(config)


def test_the_images_are_compared_one_after_the_other(rng):
  """Unrolled, XLA held distances of several at a time, 35 GB of 32 images of 256 pixels."""
  queries, known = rng.normal(size=(2, 512, 8)), rng.normal(size=(9, 512, 8))
  images = np.arange(16).reshape(2, 8) % 9
  program = jax.jit(spade._nearest_of_images).lower(queries, known, images).compile()
  distances = 2 * 512 * 512 * 4
  assert program.memory_analysis().temp_size_in_bytes < distances
  with portable.operations():
    unrolled = spade._nearest_of_images(jnp.asarray(queries), jnp.asarray(known), images)
  np.testing.assert_allclose(program(queries, known, images), unrolled, rtol=1e-5)
