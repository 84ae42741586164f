"""One category on each device: each trains as it does alone."""

import json

import jax
import numpy as np
import pytest

from memkd_jax import category_parallel, train
from memkd_jax.config import resolve
from memkd_jax.parallel import Devices
from memkd_jax.system import System

# With batches of 8: one, two and three steps.
SIZES = {'bolt': 8, 'nut': 16, 'pin': 24}


@pytest.fixture
def config(tiny_config):
  """The baseline, which compiles faster, for one epoch."""
  tiny_config.model.memories = ()
  tiny_config.train.epochs = 1
  tiny_config.parallel.axis = 'category'
  return resolve(tiny_config)


def losses_of(folder):
  return [json.loads(line)['loss'] for line in (folder / 'metrics.jsonl').open()]


@pytest.mark.parametrize('cache', ['auto'])
def test_each_category_trains_as_alone(config, cache, tmp_path, rng, one_device):
  """Three categories of different sizes on two devices, so that one takes a second."""
  images = {
    name: rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    for name, number in SIZES.items()
  }
  together, where = {}, {}

  def run_one(lane, seed, category):
    with lane.training():
      state, _ = train.train_category(
        lane, category, seed, images[category], tmp_path / category
      )
    together[category], where[category] = state, lane.devices.local[0]

  config.train.cache_features = cache
  system = System(config, Devices(jax.devices()[:2]))
  category_parallel.run_all(system, [(0, name) for name in SIZES], run_one)
  assert set(where.values()) == set(jax.devices()[:2])

  config.parallel.axis = 'batch'
  alone = System(config, one_device)
  for name, number in SIZES.items():
    state, _ = train.train_category(alone, name, 0, images[name], tmp_path / 'alone' / name)
    assert int(state.step) == int(together[name].step) == number // 8
    losses = [losses_of(tmp_path / folder / name) for folder in ('.', 'alone')]
    assert len(losses[0]) == len(losses[1]) == number // 8
    np.testing.assert_allclose(losses[0][0], losses[1][0], atol=1e-5)
    if number == 8:
      # Adam's means of the gradients and the statistics, after the only step; parameters
      # where the gradient is all but zero go either way.
      for a, b in zip(
        jax.tree.leaves((state.opt_state[0].mu, state.batch_stats)),
        jax.tree.leaves((together[name].opt_state[0].mu, together[name].batch_stats)),
        strict=True,
      ):
        np.testing.assert_allclose(a, b, atol=1e-5)
