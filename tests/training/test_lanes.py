"""One task on each device: each trains as it does alone, and no lane knows of another."""

import json
import threading
import time
from functools import partial

import jax
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.memory import peak_memory
from memkd_jax.training import lanes

# With batches of 8: one, two and three steps.
SIZES = {'bolt': 8, 'nut': 16, 'pin': 24}


@pytest.fixture
def config(tiny_config):
  """One stage of the baseline, which compiles faster, for one epoch."""
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  tiny_config.train.epochs = 1
  tiny_config.parallel.axis = 'category'
  return tiny_config


def losses_of(folder):
  return [json.loads(line)['loss'] for line in (folder / 'metrics.jsonl').open()]


def test_each_category_trains_as_alone(config, tmp_path, rng, one_device, make_method):
  """Three categories of different sizes on two devices, so that one takes a second."""
  images = {
    name: rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    for name, number in SIZES.items()
  }
  together, where = {}, {}

  def run_one(method, name):
    task = Task.of_category(name, 0)
    together[name], _ = method.trainer.train(task, images[name], tmp_path / name)
    where[name] = method.devices.local[0]

  methods = [make_method(config, Devices([d], sharing=2)) for d in jax.devices()[:2]]
  lanes.run_all(methods, SIZES, run_one)
  assert set(where.values()) == set(jax.devices()[:2])

  config.parallel.axis = 'batch'
  alone = make_method(config, one_device)
  for name, number in SIZES.items():
    task, folder = Task.of_category(name, 0), tmp_path / 'alone' / name
    state, _ = alone.trainer.train(task, images[name], folder)
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
  config, tmp_path, rng, make_method, monkeypatch
):
  images = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
  reasons, steps = {}, {}

  def run_one(method, name):
    with monkeypatch.context() as patch:  # the lane's next category is sound
      if name == 'nut':
        fetch = method.devices.unreplicate

        def poisoned(tree):
          fetched = fetch(tree)
          return fetched | {'kd': np.nan} if 'kd' in fetched else fetched

        patch.setattr(method.devices, 'unreplicate', poisoned)
      try:
        task = Task.of_category(name, 0)
        state, _ = method.trainer.train(task, images, tmp_path / name)
        steps[name] = int(state.step)
      except UserError as error:
        reasons[name] = str(error)

  methods = [make_method(config, Devices([d])) for d in jax.devices()[:2]]
  lanes.run_all(methods, ('nut', 'bolt', 'pin'), run_one)
  assert steps == {'bolt': 3, 'pin': 3}
  assert list(reasons) == ['nut']
  assert reasons['nut'].startswith('nut: training stopped at step 1, where kd=nan was the')


def test_each_lane_has_a_device_and_its_share_of_the_host():
  (everything,) = lanes.devices('batch', 3)
  assert everything.local == jax.devices()
  three = lanes.devices('category', 3)
  assert [lane.local for lane in three] == [[device] for device in jax.devices()[:3]]
  assert len(lanes.devices('category', 9)) == 4
  assert [lane.local for lane in lanes.devices('category', 0)] == [jax.devices()[:1]]
  whole, share = everything.free_memory()[1], three[0].free_memory()[1]
  assert share == pytest.approx(whole / 3, rel=0.2)


@pytest.mark.skipif(peak_memory() is None, reason='the system does not tell')
def test_the_memory_of_a_fit_is_its_own_or_not_told(tmp_path, make_quick_config, make_category):
  """It is counted by process, from what that held before."""
  for name in ('bolt', 'nut'):
    make_category(tmp_path / 'data', name, train=3, good=1, bad=1)
  config = make_quick_config(tmp_path / 'data')
  ballast = np.ones(2**26)
  config.data.categories = 'bolt'
  alone = run_config(config, tmp_path / 'alone')['costs']['bolt']
  assert 0 <= alone['fit_memory'] < ballast.nbytes < peak_memory()
  config.data.categories, config.parallel.axis = 'all', 'category'
  together = run_config(config, tmp_path / 'together')['costs']
  assert all('fit_memory' not in costs for costs in together.values())
  assert all(costs['fit_seconds'] > 0 for costs in together.values())


def add(device, number):
  """Takes `number` steps on a device, each of which adds 100."""
  step, state = jax.jit(lambda x: x + 100), jax.device_put(np.float32(0), device)
  for _ in range(number):
    state = step(state)
  assert state.devices() == {device}
  return float(state)


def test_lanes_of_any_length_do_not_meet():
  lengths = [7, 1, 12, 3, 0, 5, 2, 30, 4, 4]
  found, used = {}, set()

  def run_one(device, task):
    i, number = task
    used.add(device)
    if i % 2:
      time.sleep(0.02)  # loads, while the others take steps
    found[i] = add(device, number)
    time.sleep(0.01)  # evaluates

  lanes.run_all(jax.devices()[:3], enumerate(lengths), run_one)
  assert found == {i: n * 100 for i, n in enumerate(lengths)}
  assert used == set(jax.devices()[:3])


def test_there_may_be_nothing_to_do():
  for workers in (['one'], ['one', 'two']):
    lanes.run_all(workers, [], pytest.fail)


def test_one_worker_means_one_task_after_the_other_in_the_same_thread():
  seen = []

  def run_one(worker, task):
    seen.append((worker, task, threading.current_thread()))

  lanes.run_all(['all'], iter('ab'), run_one)
  assert seen == [('all', name, threading.main_thread()) for name in 'ab']
  with pytest.raises(ZeroDivisionError):
    lanes.run_all(['all'], [1, 0, 1], lambda _, task: seen.append(1 / task))
  assert len(seen) == 3


def test_an_error_that_nobody_expects_is_raised_when_the_others_have_ended():
  ended, begun, broken = [], threading.Barrier(3), threading.Event()

  def run_one(device, name):
    begun.wait(60)
    if name == 'broken':
      broken.set()
      raise ZeroDivisionError
    assert broken.wait(60)
    time.sleep(0.1)
    ended.append((name, add(device, 5)))

  with pytest.raises(ZeroDivisionError):
    lanes.run_all(jax.devices()[:3], ['a', 'broken', 'b', 'never', 'never'], run_one)
  assert sorted(ended) == [('a', 500), ('b', 500)]


def test_a_failure_that_a_task_handles_leaves_the_others():
  failed, ended = [], []

  def run_one(device, name):
    try:
      if name in 'bd':
        raise UserError(name)
      ended.append(add(device, 3))
    except UserError as error:
      failed.append(str(error))

  lanes.run_all(jax.devices()[:2], 'abcde', run_one)
  assert sorted(failed) == ['b', 'd']
  assert ended == [300] * 3


@pytest.mark.parametrize('kind', [KeyboardInterrupt, partial(interrupt.Interrupted, 'SIGINT')])
def test_an_interrupt_ends_all_lanes(monkeypatch, kind):
  """Of the main thread, in the midst of trainings that would never end."""
  started, stopped = threading.Barrier(3), []
  wait = lanes.wait

  def interrupted(*arguments, **options):
    monkeypatch.setattr(lanes, 'wait', wait)
    started.wait(60)
    raise kind()

  def run_one(device, name):
    try:
      with interrupt.deferred() as stop_after:
        started.wait(60)
        while not stop_after():
          add(device, 1)
    finally:
      stopped.append(name)

  monkeypatch.setattr(lanes, 'wait', interrupted)
  with pytest.raises(KeyboardInterrupt):
    lanes.run_all(jax.devices()[:2], 'abcde', run_one)
  assert sorted(stopped) == ['a', 'b']
  interrupt.raise_if_asked()  # what comes later is not concerned


def test_an_interrupt_that_the_lanes_see_first_ends_them_as_well(monkeypatch):
  started, stopped = threading.Barrier(2), []

  def run_one(device, name):
    with interrupt.deferred() as stop_after:
      started.wait(60)
      monkeypatch.setattr(interrupt._Asked, 'name', 'SIGTERM')  # as its handler does
      while not stop_after():
        add(device, 1)
      stopped.append(name)

  with pytest.raises(interrupt.Interrupted, match='SIGTERM'):
    lanes.run_all(jax.devices()[:2], 'abcde', run_one)
  assert sorted(stopped) == ['a', 'b']


def test_it_is_for_one_process(monkeypatch):
  lanes.check('category')
  monkeypatch.setattr(lanes.hosts, 'count', lambda: 2)
  lanes.check('batch')
  with pytest.raises(UserError, match='axis=category is for the devices of one process'):
    lanes.check('category')
