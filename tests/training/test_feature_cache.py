import jax
import numpy as np
import pytest

from memkd_jax.data.sampling import exemplar_indices
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.training.feature_cache import build_cache, choose_place

pytestmark = pytest.mark.newest

PLACES = ('off', 'device', 'host')


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
  'paradigm', ['reverse', pytest.param('forward', marks=pytest.mark.slow)]
)
def test_known_features_change_nothing(
  tiny_config, images, paradigm, one_device, make_method, capsys
):
  tiny_config.model.paradigm = paradigm
  runs = []
  for place in PLACES:
    tiny_config.train.cache_features = place
    trainer = make_method(tiny_config, one_device).trainer
    state = one_device.replicate(trainer.init_state(Task.of_category('bolt', 0), images))
    cache, losses = trainer.teacher.cache(images), []
    for step in range(4):
      exemplars = exemplar_indices(0, 'bolt', 10, 4, step, 8)
      inputs = trainer.inputs(cache, np.arange(8) + step % 3, exemplars)
      state, terms = trainer.train_step(state, *inputs)
      losses.append(float(terms['loss'][0]))
    runs.append((losses, one_device.unreplicate(state)))
  output = capsys.readouterr().out
  assert "the teacher's features are computed at every step" in output
  assert "the teacher's features are kept on the device: 0 MB" in output
  computed, on_device, on_host = runs
  assert on_device[0] == on_host[0]
  jax.tree.map(np.testing.assert_array_equal, on_device[1], on_host[1])
  # Where the teacher is in the step's program some CPUs round otherwise in the last bit.
  np.testing.assert_allclose(computed[0], on_device[0], rtol=1e-6)
  for a, b in zip(
    jax.tree.leaves((computed[1].opt_state[0].mu, computed[1].batch_stats)),
    jax.tree.leaves((on_device[1].opt_state[0].mu, on_device[1].batch_stats)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def cache_of(images, place, devices):
  """A cache of images whose features are their halves and their means."""
  halves = images.astype(np.float32) / 2
  features = halves, halves.mean((1, 2, 3))
  size = sum(stage.nbytes for stage in features)
  return build_cache(devices, lambda: features, images, size, wanted=place)


@pytest.mark.parametrize('number', [1, 4])
@pytest.mark.parametrize('place', PLACES)
def test_batches_are_shared_out(images, place, number):
  devices = Devices(jax.devices()[:number])
  cache = cache_of(images, place, devices)
  drawn = np.array([9, 3, 3, 0])
  batch = cache.draw(drawn)
  assert batch.images.shape == (number, 4 // number, 32, 32, 3)
  np.testing.assert_array_equal(devices.unshard(batch.images, 4), images[drawn])
  assert (batch.features is None) == (place == 'off')
  if place != 'off':
    halves, means = (devices.unshard(stage, 4) for stage in batch.features)
    np.testing.assert_array_equal(halves, images[drawn] / 2)
    np.testing.assert_allclose(means, images[drawn].mean((1, 2, 3)) / 2, rtol=1e-5)


@pytest.mark.parametrize('place', PLACES)
def test_all_images_come_once_and_in_their_order(images, place):
  devices = Devices()
  cache = cache_of(images, place, devices)
  numbers, seen = [], []
  for batch, number in cache.batches(6):  # rounded up to 8 for four devices
    assert batch.images.shape == (4, 2, 32, 32, 3)
    numbers.append(number)
    seen.append(devices.unshard(batch.images, number))
  assert numbers == [8, 2]
  np.testing.assert_array_equal(np.concatenate(seen), images)


def test_the_features_are_those_of_the_teacher(tiny_config, images, make_method):
  devices = Devices()
  method = make_method(tiny_config, devices)
  batch = method.trainer.teacher.cache(images).draw(np.array([9, 3, 3, 0]))
  shapes = [(4, 1, 8, 8, 4), (4, 1, 4, 4, 8), (4, 1, 2, 2, 16), (4, 1, 1, 1, 32)]
  assert [stage.shape for stage in batch.features] == shapes
  extractor = jax.jit(method.extractor, static_argnums=2)
  expected = extractor(method.extractor.params, images[[9, 3, 3, 0]], 4)
  for found, stage in zip(batch.features, expected, strict=True):
    np.testing.assert_allclose(devices.unshard(found, 4), stage, atol=1e-4)


def test_the_cache_is_where_it_fits():
  assert choose_place('auto', 100, 400, 0) == 'device'
  assert choose_place('auto', 100, 399, 400) == 'host'
  assert choose_place('auto', 100, 399, 399) == 'off'
  assert choose_place('off', 100, 10**9, 10**9) == 'off'
  assert choose_place('device', 100, 100, 0) == 'device'
  with pytest.raises(UserError, match=r'cache_features=host: .* need 200 MB and 100 MB are'):
    choose_place('host', 200_000_000, 0, 100_000_000)
