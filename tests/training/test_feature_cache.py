import jax
import numpy as np
import pytest

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.runtime.devices import Devices
from memkd_jax.training.feature_cache import choose_place


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def losses_of(config, images, number_of_devices):
  system = System(methods.resolve(config), Devices(jax.devices()[:number_of_devices]))
  state = system.devices.replicate(system.init_state('bolt', 0, images))
  data, losses = system.training_data(images), []
  for step in range(4):
    state, terms = system.train_step(
      state,
      system.teacher_params,
      data.draw(np.arange(8) + step % 3),
      data.draw(system.exemplar_indices('bolt', 0, len(images), step)),
    )
    losses.append(float(terms['loss'][0]))
  return losses, system.devices.unreplicate(state.params)


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_known_features_change_nothing(tiny_config, images, paradigm, capsys):
  tiny_config.model.paradigm = paradigm
  runs = []
  for cache in ('off', 'device', 'host'):
    tiny_config.train.cache_features = cache
    runs.append(losses_of(tiny_config, images, 1))
  output = capsys.readouterr().out
  assert "the teacher's features are computed at every step" in output
  assert "the teacher's features are kept on the device: 0 MB" in output
  for other in runs[1:]:
    assert other[0] == runs[0][0]
    jax.tree.map(np.testing.assert_array_equal, runs[0][1], other[1])


def test_batches_are_shared_out(tiny_config, images):
  system = System(methods.resolve(tiny_config), Devices(jax.devices()))
  for cache in ('off', 'device', 'host'):
    system.config.train.cache_features = cache
    batch = system.training_data(images).draw(np.array([9, 3, 3, 0]))
    assert batch.images.shape == (4, 1, 32, 32, 3)
    np.testing.assert_array_equal(np.asarray(batch.images)[:, 0], images[[9, 3, 3, 0]])
    assert (batch.features is None) == (cache == 'off')
    if cache != 'off':
      assert [f.shape for f in batch.features] == [
        (4, 1, 8, 8, 4),
        (4, 1, 4, 4, 8),
        (4, 1, 2, 2, 16),
        (4, 1, 1, 1, 32),
      ]


def test_the_cache_is_where_it_fits():
  assert choose_place('auto', 100, 400, 0) == 'device'
  assert choose_place('auto', 100, 399, 400) == 'host'
  assert choose_place('auto', 100, 399, 399) == 'off'
  assert choose_place('off', 100, 10**9, 10**9) == 'off'
  assert choose_place('device', 100, 100, 0) == 'device'
  with pytest.raises(UserError, match=r'cache_features=host: .* need 200 MB and 100 MB are'):
    choose_place('host', 200_000_000, 0, 100_000_000)
