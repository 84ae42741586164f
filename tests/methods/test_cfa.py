"""CFA against loops, scipy and scikit-learn; what a training depends on; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.methods.cfa import (
  adamw_amsgrad,
  cluster,
  coupled_losses,
  describe,
  mean_over_images,
  softmin_distances,
)
from memkd_jax.runtime.devices import Devices

pytestmark = pytest.mark.newest

BOLT = Task.of_category('bolt', 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def tiny(make_config, folder):
  config = methods.get_config('folder', 'cfa')
  like = make_config(folder)
  config.data = like.data
  config.model.backbone, config.model.teacher_weights = 'tiny_basic', like.model.teacher_weights
  config.train.epochs, config.train.checkpoint_steps = 2, 2
  config.eval.batch_size = 4
  return config


@pytest.fixture
def config(make_config, tmp_path):
  return tiny(make_config, tmp_path)


@pytest.fixture(scope='module')
def method(make_config, make_method, tmp_path_factory):
  """Its programs are compiled once."""
  config = tiny(make_config, tmp_path_factory.mktemp('data'))
  config.method.learn_radius = True
  return make_method(config, Devices(jax.devices()[:1]))


@pytest.fixture(scope='module')
def params(method, tmp_path_factory):
  fitted = method.fit(BOLT, IMAGES, tmp_path_factory.mktemp('whole'))
  assert fitted.diagnosis == {}
  return fitted.params


def begin(method, images=IMAGES, task=BOLT):
  return method._begin(task, method._descent.teacher.cache(images))


def features_of(method, images=IMAGES):
  return method._extractor(method._extractor.params, images, 3)


def test_a_patch_is_described_with_its_place(rng):
  found = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
  kernel, bias = rng.normal(size=(6, 7)).astype(np.float32), rng.normal(size=7)
  expected = np.empty((2, 3, 5, 7))
  for image, row, column in np.ndindex(2, 3, 5):
    place = [2 * row / 2 - 1, 2 * column / 4 - 1]
    expected[image, row, column] = [*found[image, row, column], *place] @ kernel + bias
  described = describe(jnp.asarray(found), jnp.asarray(kernel), jnp.asarray(bias))
  np.testing.assert_allclose(described, expected, atol=1e-5)


@pytest.mark.parametrize('rate', [0.0, 0.25, 1.0])
def test_the_mean_is_that_of_a_loop(rng, rate):
  images = rng.normal(size=(9, 3, 4)).astype(np.float32)
  expected = np.zeros((3, 4))
  for i, image in enumerate(images):
    if rate and i:
      expected = (1 - rate) * expected + rate * image
    else:
      expected = (expected * i + image) / (i + 1)  # the authors' running mean
  found = mean_over_images(np.split(images, [4, 5, 8]), rate)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
  ('attracting', 'repelling', 'radius'), [(3, 3, 1.9), (1, 4, 2.2), (2, 1, 1e-5), (4, 0, 1.0)]
)
def test_losses_are_those_of_loops(rng, attracting, repelling, radius):
  queries, memory = rng.normal(size=(20, 3)), rng.normal(size=(11, 3))
  near, far, gradients = [], [], np.zeros_like(queries)
  for query, gradient in zip(queries, gradients, strict=True):
    order = sorted(memory, key=lambda centre: sum((query - centre) ** 2))
    for centre in order[:attracting]:
      near.append(max(0, sum((query - centre) ** 2) - radius**2))
      gradient += (near[-1] > 0) * 2 * (query - centre) / (20 * attracting * 0.01)
    for centre in order[attracting : attracting + repelling]:
      far.append(max(0, radius**2 - sum((query - centre) ** 2) - 0.3))
      gradient -= (far[-1] > 0) * 2 * (query - centre) / (20 * repelling * 0.01)

  def losses(queries):
    return coupled_losses(
      queries,
      jnp.asarray(memory, jnp.float32),
      radius,
      attracting=attracting,
      repelling=repelling,
      margin=0.3,
      nu=0.01,
    )

  found = losses(jnp.asarray(queries, jnp.float32))
  assert float(found[0]) == pytest.approx(np.mean(near) / 0.01, rel=1e-4)
  assert float(found[1]) == pytest.approx(np.mean(far or [0]) / 0.01, rel=1e-4)
  assert (float(found[1]) > 0) == (repelling > 0 and radius > 1)
  found = jax.grad(lambda queries: sum(losses(queries)))(jnp.asarray(queries, jnp.float32))
  np.testing.assert_allclose(found, gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('neighbours', [1, 3, 6])
def test_distances_are_weighed_by_a_softmin(rng, neighbours):
  queries, memory = rng.normal(size=(15, 4)), rng.normal(size=(30, 4))
  nearest, _ = NearestNeighbors(n_neighbors=neighbours).fit(memory).kneighbors(queries)
  expected = [softmax(-distances)[0] * distances[0] for distances in nearest]
  found = softmin_distances(
    jnp.asarray(queries, jnp.float32), jnp.asarray(memory, jnp.float32), neighbours
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_clusters_are_as_good_as_those_of_scikit_learn(rng):
  rows = np.concatenate([rng.normal(size=(40, 3)), rng.normal(3, 1, (50, 3))])
  found = cluster(rows, 9, np.random.default_rng(5))
  start = rows[np.sort(np.random.default_rng(5).choice(90, 9, replace=False))]
  expected = KMeans(9, init=start, n_init=1, tol=0).fit(rows)

  def objective(centres):
    return (NearestNeighbors(n_neighbors=1).fit(centres).kneighbors(rows)[0] ** 2).sum()

  assert objective(found) == pytest.approx(expected.inertia_, rel=1e-4)
  assert objective(found) < 0.8 * objective(start)


def test_the_optimizer_is_amsgrad_with_decoupled_decay(rng):
  start = rng.normal(size=5)
  gradients = rng.normal(size=(6, 5)) * np.array([9, 1, 5, 0.1, 0.1, 3])[:, None]
  expected, mean, square, most = start.copy(), 0, 0, 0
  for step, gradient in enumerate(gradients, start=1):
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    most = np.maximum(most, square / (1 - 0.999**step))
    move = mean / (1 - 0.9**step) / (np.sqrt(most) + 1e-8)
    expected = expected - 0.01 * (move + 0.2 * expected)
  optimizer = adamw_amsgrad(0.01, 0.2)
  found = jnp.asarray(start, jnp.float32)
  state = optimizer.init(found)
  for gradient in gradients:
    updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, found)
    found = optax.apply_updates(found, updates)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_memory_is_the_mean_of_what_is_described(method):
  state = begin(method)
  patches = np.asarray(method._patches(features_of(method)))
  descriptor = state.params['descriptor']
  expected = np.zeros((64, 28))
  for image in patches:
    expected += np.asarray(describe(image[None], **descriptor)).reshape(64, 28) / len(patches)
  np.testing.assert_allclose(state.batch_stats['memory'], expected, atol=1e-5)
  bound = 30**-0.5  # of 28 channels and two coordinates
  for values in descriptor.values():
    assert 0.9 * bound < np.abs(values).max() <= bound


def test_the_memory_does_not_depend_on_the_order_of_images(method):
  one, other = begin(method), begin(method, IMAGES[::-1].copy())
  np.testing.assert_allclose(one.batch_stats['memory'], other.batch_stats['memory'], atol=1e-6)


def test_what_begins_depends_on_the_seed_alone(config, make_method, method):
  one, again = begin(method), begin(method)
  jax.tree.map(np.testing.assert_array_equal, one, again)
  other = begin(method, task=Task.of_category('bolt', 1))
  assert np.abs(one.batch_stats['memory'] - other.batch_stats['memory']).max() > 1e-3
  config.method.learn_radius = True
  four = begin(make_method(config, Devices()))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, four)


def test_descriptor_and_memory_can_be_smaller(config, make_method):
  config.method.gamma_d, config.method.gamma_c, config.method.stages = 3, 4, (1, 3)
  config.method.learn_radius = False
  method = make_method(config, Devices(jax.devices()[:1]))
  state, again = begin(method), begin(method)
  assert state.params['descriptor']['kernel'].shape == (4 + 16 + 2, 20 // 3)
  assert state.batch_stats['memory'].shape == (64 // 4, 20 // 3)
  assert 'radius' not in state.params
  jax.tree.map(np.testing.assert_array_equal, state, again)


def test_maps_are_those_of_a_slow_twin(method, params):
  features = features_of(method)
  found = np.asarray(describe(method._patches(features), params['kernel'], params['bias']))
  tree = NearestNeighbors(n_neighbors=3).fit(params['memory'])
  distances, _ = tree.kneighbors(found.reshape(-1, found.shape[-1]))
  expected = [softmax(-three)[0] * three[0] for three in distances]
  maps = method.maps(params, features, IMAGES)
  assert list(maps) == [0]
  np.testing.assert_allclose(maps[0], np.reshape(expected, (10, 8, 8)), atol=1e-4)
  assert np.ptp(maps[0]) > 1e-2


def test_descriptor_and_radius_alone_are_trained(method, params):
  state = begin(method)
  descent = method._descent
  np.testing.assert_array_equal(params['memory'], state.batch_stats['memory'])
  assert np.abs(params['kernel'] - state.params['descriptor']['kernel']).max() > 1e-3
  cache = descent.teacher.cache(IMAGES)
  on_device, losses = descent._devices.replicate(state), []
  for _ in range(10):
    on_device, terms = descent.train_step(on_device, *descent.inputs(cache, np.arange(4)))
    losses.append(float(terms['loss'][0]))
    assert set(terms) == {'loss', 'attraction', 'repulsion', 'radius', 'grad_norm'}
  assert losses[-1] < 0.95 * losses[0]
  assert float(terms['radius'][0]) > 1e-3


def test_a_resumed_training_ends_as_an_undisturbed_one(method, params, tmp_path, monkeypatch):
  descent = method._descent
  step, taken = descent.train_step, []

  def fails_at_the_fourth(*arguments):
    taken.append(None)
    if len(taken) == 4:
      raise OSError('the device is gone')
    return step(*arguments)

  monkeypatch.setitem(vars(descent), 'train_step', fails_at_the_fourth)
  with pytest.raises(OSError, match='the device is gone'):
    method.fit(BOLT, IMAGES, tmp_path)
  again = method.fit(BOLT, IMAGES, tmp_path).params
  assert len(taken) == 4 + 3  # five steps, from the checkpoint of step 2
  jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('method.stages', (), 'at least one'),
    ('method.neighbourhood', 2, 'is odd'),
    ('method.gamma_d', 0, 'gamma_d=0'),
    ('method.nu', 0.0, 'nu=0.0'),
    ('method.memory_rate', 1.5, 'memory_rate=1.5'),
    ('method.attracting', 0, 'attracting=0'),
  ],
)
def test_what_cannot_be_is_refused(config, field, value, message):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    methods.resolve(config)


def test_a_memory_that_is_too_small_is_refused(config, make_method, tmp_path):
  config.method.gamma_c = 12
  method = make_method(config, Devices(jax.devices()[:1]))
  with pytest.raises(UserError, match=r'gamma_c=12 leaves 5 centres .* looks at 6 of them'):
    method.fit(BOLT, IMAGES, tmp_path)
