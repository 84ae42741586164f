"""PatchCore against loops, brute force and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from memkd_jax import methods
from memkd_jax.data.sampling import category_seed
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.methods.patchcore import projection, reweighted_distances
from memkd_jax.methods.patches import pooling_matrix
from memkd_jax.runtime.devices import Devices

BOLT = Task.of_category('bolt', 0)


@pytest.fixture
def config(tiny_config):
  config = methods.get_config('folder', 'patchcore')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.eval.batch_size = 4
  config.method.channels, config.method.joint_channels = 12, 10
  return config


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


def pooled_by_hand(features, number):
  channels = features.shape[-1]
  wanted = number or channels
  return np.stack(
    [
      features[..., i * channels // wanted : -(-(i + 1) * channels // wanted)].mean(-1)
      for i in range(wanted)
    ],
    axis=-1,
  )


POOLINGS = [(5, 0), (0, 7), (6, 8), (12, 0), (12, 10), (40, 40), (1024, 1024)]


@pytest.mark.parametrize(('number', 'joint'), POOLINGS)
def test_channels_are_pooled_as_by_hand(rng, number, joint):
  stages = [rng.normal(size=(9, channels)) for channels in (8, 12)]
  each = np.concatenate([pooled_by_hand(stage, number) for stage in stages], axis=-1)
  expected = pooled_by_hand(each, joint)
  matrix = pooling_matrix((8, 12), number, joint)
  found = np.concatenate(stages, axis=-1) @ matrix
  assert matrix.shape[1] == min(expected.shape[1], 20)
  np.testing.assert_allclose(pairwise_distances(found), pairwise_distances(expected))
  if expected.shape[1] <= 20:
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize('neighbours', [2, 9, 40])
def test_scores_are_reweighted_as_by_hand(rng, neighbours):
  memory = rng.normal(size=(40, 5)).astype(np.float32)
  queries = rng.normal(size=(7, 5)).astype(np.float32)
  expected = []
  for query in queries:
    distances = np.linalg.norm(memory - query, axis=1)
    nearest = distances.argmin()
    order = np.argsort(np.linalg.norm(memory - memory[nearest], axis=1))[:neighbours]
    weights = np.exp(distances[order])
    expected.append((1 - np.exp(distances[nearest]) / weights.sum()) * distances[nearest])
  found = reweighted_distances(jnp.asarray(queries), jnp.asarray(memory), neighbours)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_projections_keep_distances_about_as_they_are(rng):
  rows = rng.normal(size=(60, 512)).astype(np.float32)
  projected = rows @ projection(512, 256, np.random.default_rng(0))
  ratio = pairwise_distances(projected)[~np.eye(60, dtype=bool)]
  ratio /= pairwise_distances(rows)[~np.eye(60, dtype=bool)]
  assert 0.75 < ratio.min() < ratio.max() < 1.25


@pytest.mark.parametrize('number', [0, 512, 600])
def test_rows_are_kept_where_they_have_no_more_numbers(rng, number):
  assert projection(512, number, rng) is None


def test_maps_and_scores_are_those_of_a_slow_twin(config, images, make_method, tmp_path):
  method = make_method(config, Devices(jax.devices()[:1]))
  params, diagnosis, _ = method.fit(BOLT, images, tmp_path)
  assert diagnosis == {}
  features = method._patches._extractor(method._patches._extractor.params, images, 3)
  patches = np.asarray(method._patches(features))
  rows = patches.reshape(-1, patches.shape[-1])
  memory = params['memory']
  assert len(memory) == round(0.1 * len(rows))
  # Each row of the memory is one of the patches.
  distance, _ = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors(memory)
  assert distance.max() < 1e-3
  expected, _ = NearestNeighbors(n_neighbors=1).fit(memory).kneighbors(rows)
  maps = method.maps(params, features, images)
  np.testing.assert_allclose(maps[0], expected.reshape(6, 8, 8), atol=1e-2)
  scores = method.image_scores(params, features, maps, None)
  most = np.asarray(maps[0]).reshape(6, -1).argmax(1)
  queries = patches.reshape(6, 64, -1)[np.arange(6), most]
  weighed = reweighted_distances(jnp.asarray(queries), jnp.asarray(memory), 9)
  np.testing.assert_allclose(scores, weighed, atol=1e-2)


@pytest.mark.parametrize(('numbers', 'most', 'kept'), [(0, 0, 38), (4, 0, 38), (4, 5, 5)])
def test_the_memory_is_the_coreset_of_a_slow_twin(
  config, images, make_method, tmp_path, numbers, most, kept
):
  config.method.projection, config.method.most = numbers, most
  method = make_method(config, Devices(jax.devices()[:1]))
  found = method.fit(BOLT, images, tmp_path).params['memory']
  assert len(found) == kept  # of 6 images of 64 patches a tenth, or what there may be at most
  patches = method._patches(
    method._patches._extractor(method._patches._extractor.params, images)
  )
  rows = np.asarray(patches).reshape(-1, 10)
  generator = np.random.default_rng(category_seed(BOLT.seed, BOLT.name))
  compared = rows @ generator.normal(0, 0.5, (10, 4)).astype(np.float32) if numbers else rows
  picked = [int(generator.integers(len(rows)))]
  squared = pairwise_distances(compared.astype(np.float64)) ** 2
  while len(picked) < len(found):
    picked.append(int(squared[picked].min(axis=0).argmax()))
  np.testing.assert_allclose(found, rows[sorted(picked)], atol=1e-4)


def test_patches_that_are_too_many_to_hold_are_computed_again(
  config, images, make_method, tmp_path, capsys
):
  config.method.projection = 4
  memories = []
  for gigabytes, how in ((1.0, 'held in memory'), (0.0, 'computed twice')):
    config.method.host_gigabytes = gigabytes
    method = make_method(config, Devices(jax.devices()[:1]))
    memories.append(method.fit(BOLT, images, tmp_path).params['memory'])
    assert (
      f'Note: bolt has 384 patches of 10 numbers, 0.00 GB, {how}' in capsys.readouterr().out
    )
  np.testing.assert_array_equal(*memories)


def test_a_training_image_is_at_no_distance_of_all_its_patches(
  config, images, make_method, tmp_path
):
  config.method.share = 1.0
  method = make_method(config, Devices(jax.devices()[:1]))
  params = method.fit(BOLT, images, tmp_path).params
  features = method._patches._extractor(method._patches._extractor.params, images, 3)
  assert np.asarray(method.maps(params, features, images)[0]).max() < 0.05


def test_the_memory_depends_on_the_seed_alone(config, images, make_method, tmp_path):
  memories = []
  for number, batch, seed in ((1, 4, 0), (1, 3, 0), (4, 4, 0), (1, 4, 1)):
    config.eval.batch_size = batch
    method = make_method(config, Devices(jax.devices()[:number]))
    memories.append(
      method.fit(Task.of_category('bolt', seed), images, tmp_path).params['memory']
    )
  np.testing.assert_allclose(memories[0], memories[1], atol=1e-5)
  np.testing.assert_allclose(memories[0], memories[2], atol=1e-5)
  assert np.abs(memories[0] - memories[3]).max() > 1e-3


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [('neighbourhood', 2, 'is odd'), ('stages', (), 'at least one'), ('share', 0.0, 'share=0.0')],
)
def test_what_cannot_be_is_refused(config, field, value, message):
  config.method[field] = value
  with pytest.raises(UserError, match=message):
    methods.resolve(config)
