"""One category on each device: each trains as it does alone."""

import copy
import json
import threading
import time

import jax
import numpy as np
import pytest

from memkd_jax import run
from memkd_jax.errors import UserError
from memkd_jax.methods import resolve
from memkd_jax.methods.distillation import System
from memkd_jax.runtime.devices import Devices
from memkd_jax.training import lanes
from memkd_jax.training.step import Batch

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


def test_each_category_trains_as_alone(config, tmp_path, rng, one_device):
  """Three categories of different sizes on two devices, so that one takes a second."""
  images = {
    name: rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    for name, number in SIZES.items()
  }
  together, where = {}, {}

  def run_one(lane, seed, category):
    with lane.training():
      state, _ = run.train_category(lane, category, seed, images[category], tmp_path / category)
    together[category], where[category] = state, lane.devices.local[0]

  system = System(config, Devices(jax.devices()[:2]))
  lanes.run_all(system, [(0, name) for name in SIZES], run_one)
  assert set(where.values()) == set(jax.devices()[:2])

  config.parallel.axis = 'batch'
  alone = System(config, one_device)
  for name, number in SIZES.items():
    state, _ = run.train_category(alone, name, 0, images[name], tmp_path / 'alone' / name)
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


@pytest.mark.slow
def test_a_term_that_is_not_finite_stops_its_own_category_alone(
  config, tmp_path, rng, monkeypatch
):
  images = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
  reasons, steps = {}, {}

  def run_one(lane, seed, category):
    if category == 'nut':
      fetch = lane.devices.unreplicate

      def poisoned(tree):
        fetched = fetch(tree)
        return fetched | {'kd': np.nan} if 'kd' in fetched else fetched

      monkeypatch.setattr(lane.devices, 'fetch', poisoned)
    try:
      with lane.training():
        state, _ = run.train_category(lane, category, seed, images, tmp_path / category)
      steps[category] = int(state.step)
    except UserError as error:
      reasons[category] = str(error)
    finally:
      monkeypatch.undo()  # the lane's next category is sound

  system = System(config, Devices(jax.devices()[:2]))
  lanes.run_all(system, [(0, name) for name in ('nut', 'bolt', 'pin')], run_one)
  assert steps == {'bolt': 3, 'pin': 3}
  assert list(reasons) == ['nut']
  assert reasons['nut'].startswith('nut: training stopped at step 1, where kd=nan was the')


class Adder:
  """Has what `run_all` needs of a system; a step adds the batch to the state."""

  def __init__(self, config, devices):
    self.config, self.devices = config, devices
    self.teacher_params = devices.replicate(np.float32(100))

  def moved_to(self, devices, teacher_params):
    other = copy.copy(self)
    other.devices, other.teacher_params = devices, teacher_params
    return other

  def step(self, state, teacher_params, batch, exemplars):
    new = state + batch.images.sum() + exemplars.images.sum() + teacher_params
    return new, {'loss': new / 2}

  def teacher_step(self, teacher_params, images):
    return (images,)


@pytest.fixture
def adder(config):
  return Adder(config, Devices(jax.devices()[:3]))


def add(lane, number):
  """Takes `number` steps, each of which adds 100 + number + 1."""
  with lane.training():
    state = lane.devices.replicate(np.float32(0))
    for step in range(1, number + 1):
      batch, one = (Batch(np.full((1, 1), x, np.float32)) for x in (number, 1))
      state, terms = lane.train_step(state, lane.teacher_params, batch, one)
      assert lane.devices.unreplicate(terms) == {'loss': step * (101 + number) / 2}
    return float(lane.devices.unreplicate(state))


def test_lanes_of_any_length_do_not_meet(adder):
  lengths = [7, 1, 12, 3, 0, 5, 2, 30, 4, 4]
  found = {}

  def run_one(lane, seed, category):
    if seed % 2:
      time.sleep(0.02)  # loads, while the others take steps
    found[seed] = add(lane, int(category)) if int(category) else 0
    time.sleep(0.01)  # evaluates

  lanes.run_all(adder, enumerate(map(str, lengths)), run_one)
  assert found == {i: n * (101 + n) for i, n in enumerate(lengths)}


def test_each_batch_for_all_devices_means_one_run_after_the_other(adder):
  adder.config.parallel.axis = 'batch'
  seen = []
  lanes.run_all(adder, [(0, 'a'), (1, 'b')], lambda *run: seen.append(run))
  assert seen == [(adder, 0, 'a'), (adder, 1, 'b')]


def test_an_error_that_nobody_expects_is_raised_when_the_others_have_ended(adder):
  found, begun = [], threading.Barrier(3)

  def run_one(lane, seed, category):
    begun.wait()
    if category == 'broken':
      raise ZeroDivisionError
    found.append(add(lane, 5))

  runs = [(0, 'a'), (0, 'broken'), (0, 'b'), (0, 'never'), (1, 'never')]
  with pytest.raises(ZeroDivisionError):
    lanes.run_all(adder, runs, run_one)
  assert found == [5 * 106.0] * 2


def test_a_step_that_fails_fails_in_every_lane(adder):
  def broken(*_):
    raise ZeroDivisionError

  adder.step = broken
  failed = []

  def run_one(lane, seed, category):
    try:
      add(lane, 3)
    except ZeroDivisionError:
      failed.append(category)

  lanes.run_all(adder, [(0, name) for name in 'abcd'], run_one)
  assert sorted(failed) == list('abcd')


def test_an_interrupt_ends_all_lanes(adder, monkeypatch):
  started = threading.Event()

  def interrupted(*_, **__):
    assert started.wait(60)
    raise KeyboardInterrupt

  def run_one(lane, seed, category):
    started.set()
    add(lane, 10**9)

  monkeypatch.setattr(lanes, 'wait', interrupted)
  with pytest.raises(KeyboardInterrupt):
    lanes.run_all(adder, [(0, name) for name in 'abcde'], run_one)


def test_it_is_for_one_process(config, monkeypatch):
  lanes.check(config)
  monkeypatch.setattr(lanes.processes, 'count', lambda: 2)
  with pytest.raises(UserError, match='axis=category is for the devices of one process'):
    lanes.check(config)
