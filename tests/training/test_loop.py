"""The loop alone, with a step that adds what it draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.training import loop
from memkd_jax.training.checkpoint import Checkpoints
from memkd_jax.training.plateau import Plateau
from memkd_jax.training.step import TrainState

METADATA = {'images': 'those'}


@pytest.fixture
def start():
  return TrainState(np.int32(0), {'sum': np.float32(0)}, {}, ())


@pytest.fixture
def train(one_device, tmp_path, start):
  """Trains; draws step n's argument 10^n, so that the sum shows which steps were taken."""

  @one_device.map
  def add(state, drawn):
    params = {'sum': state.params['sum'] + drawn}
    return TrainState(state.step + 1, params, {}, ()), {'other': drawn, 'loss': params['sum']}

  def run(
    steps, metadata=METADATA, check=lambda step, terms: None, draw=None, plateau=None, **options
  ):
    prepared = []

    def prepare():
      prepared.append(None)
      return draw or (lambda number: (np.full((1,), 10.0**number, np.float32),))

    values = {
      'name': 'bolt',
      'batch_size': 4,
      'checkpoint_steps': 2,
      'log_steps': 1,
      'trackers': (),
      'fields': {},
      'profile': False,
      'check': check,
      'order': sorted,
    }
    state, terms = loop.train(
      start,
      add,
      prepare,
      steps,
      tmp_path,
      devices=one_device,
      metadata=metadata,
      options=loop.LoopOptions(**values | options),
      plateau=plateau,
    )
    return state, terms, len(prepared)

  return run


def saved_steps(folder):
  return sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())


def logged(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').open()]


def test_every_step_is_taken_checked_and_logged(train, tmp_path):
  checked = []
  state, terms, prepared = train(5, check=lambda *given: checked.append(given), log_steps=2)
  assert int(state.step) == 5
  assert state.params['sum'] == 11111
  assert isinstance(state.params['sum'], np.generic | np.ndarray)
  assert terms == {'loss': 11111, 'other': 10_000}
  assert prepared == 1
  assert [(step, given['loss']) for step, given in checked] == [
    (1, 1),
    (2, 11),
    (3, 111),
    (4, 1111),
    (5, 11111),
  ]
  assert [line['step'] for line in logged(tmp_path)] == [2, 4, 5]  # and the last one
  names = ['step', 'loss', 'other', 'images_per_second', 'stall_seconds']
  times = ['step_seconds_p50', 'step_seconds_p90', 'step_seconds_p99']
  assert list(logged(tmp_path)[0]) == names + times  # a CPU does not tell its memory
  assert all(0 < line[times[0]] <= line[times[2]] for line in logged(tmp_path))
  assert saved_steps(tmp_path) == [4, 5]  # the two newest


def test_it_goes_on_from_the_newest_checkpoint(train, tmp_path):
  def fails(number):
    if number == 5:
      raise OSError('no images')
    return (np.full((1,), 10.0**number, np.float32),)

  with pytest.raises(OSError, match='no images'):
    train(8, draw=fails)
  assert saved_steps(tmp_path) == [2, 4]
  drawn = []
  state, _, _ = train(
    8, draw=lambda n: (drawn.append(n), (np.full((1,), 10.0**n, np.float32),))[1]
  )
  assert drawn == [4, 5, 6, 7]
  assert state.params['sum'] == 11111111
  assert [line['step'] for line in logged(tmp_path)] == list(range(1, 9))


def test_where_nothing_is_left_to_do_nothing_is_prepared(train, tmp_path):
  train(3)
  log = (tmp_path / 'metrics.jsonl').read_text()
  state, terms, prepared = train(3)
  assert int(state.step) == 3
  assert state.params['sum'] == 111
  assert terms == {}
  assert prepared == 0
  assert (tmp_path / 'metrics.jsonl').read_text() == log


def test_checkpoints_of_other_images_are_refused(train, tmp_path):
  train(3)
  message = r'checkpoints began with other training images; give it the same ones, or choose'
  with pytest.raises(UserError, match=message):
    train(5, metadata={'images': 'others'})
  assert saved_steps(tmp_path) == [2, 3]


def test_a_state_whose_terms_are_refused_is_not_saved(train, tmp_path, start):
  def check(step, terms):
    if step == 4:
      raise UserError('bolt: no meaning any more')

  with pytest.raises(UserError, match='no meaning any more'):
    train(6, check=check)
  assert saved_steps(tmp_path) == [2]
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    assert checkpoints.restore(start).params['sum'] == 11
  assert [line['step'] for line in logged(tmp_path)] == [1, 2, 3]
  assert train(6)[0].params['sum'] == 111111


def test_a_signal_saves_the_step_that_it_came_in(train, tmp_path, monkeypatch):
  def check(step, terms):
    if step == 3:  # which is checked while the fourth is under way
      monkeypatch.setattr(interrupt._Asked, 'name', 'SIGTERM')

  with pytest.raises(interrupt.Interrupted, match='SIGTERM'):
    train(9, check=check, checkpoint_steps=100)
  assert saved_steps(tmp_path) == [4]
  monkeypatch.undo()
  state, _, _ = train(9, checkpoint_steps=100)
  assert state.params['sum'] == 111111111
  assert [line['step'] for line in logged(tmp_path)] == list(range(1, 10))


def test_a_plateau_ends_it_once_and_for_all(train, tmp_path, one_device):
  """The held-out loss falls until step 4; two checks later it is over."""

  def loss(state):
    return max(1.0, 5.0 - int(one_device.unreplicate(state).step))

  def plateau():
    return Plateau(tmp_path, loss, check_steps=2, patience=2)

  state, terms, _ = train(20, plateau=plateau(), checkpoint_steps=100, log_steps=3)
  assert int(state.step) == 8
  assert terms['loss'] == 11111111
  assert [line['step'] for line in logged(tmp_path)] == [3, 6, 8]  # and the last one
  assert saved_steps(tmp_path) == [8]
  again, _, prepared = train(20, plateau=plateau())
  assert (int(again.step), prepared) == (8, 0)
  assert int(train(20)[0].step) == 20  # without the rule it goes on


@pytest.mark.parametrize('move', ['in', 'operation'])
def test_what_moves_unasked_to_the_devices_raises(train, one_device, move):
  """A numpy array given to a compiled function, and an operation outside of one."""
  double = one_device.map(lambda x: 2 * x)

  def draw(number):
    given = np.full((1,), 10.0**number, np.float32)
    return (double(given) if move == 'in' else jnp.asarray(given) + 1,)

  with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device transfer'):
    train(2, draw=draw)
  asked = train(2, draw=lambda number: (double(one_device.put(np.full(1, 10.0**number))),))
  assert asked[0].params['sum'] == 22


def test_what_moves_unasked_to_the_host_raises(train):
  """From several devices: a single CPU device shares its memory with the host."""
  if jax.__version_info__ < (0, 12):
    pytest.skip('JAX before 0.12 does not see what a CPU device gives to the host')
  devices = Devices()
  spread = devices.map(lambda x: x)(np.ones((len(devices), 1), np.float32))
  with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed device-to-host transfer'):
    train(2, draw=lambda number: (np.asarray(spread)[0],))
  again = devices.map(lambda x: x)(np.ones((len(devices), 1), np.float32))
  state, _, _ = train(2, draw=lambda number: (devices.unreplicate(again),))
  assert state.params['sum'] == 2


def test_the_memory_of_a_device_is_logged_where_it_is_told(train, tmp_path, one_device):
  one_device.memory_use = lambda: {'bytes_in_use': 5, 'peak_bytes_in_use': 7}
  train(2)
  for line in logged(tmp_path):
    assert (line['bytes_in_use'], line['peak_bytes_in_use']) == (5, 7)
  assert 'step_seconds_p50' not in logged(tmp_path)[0]  # of the first step, which compiles
  assert 'step_seconds_p50' in logged(tmp_path)[1]


def test_a_resumed_training_drops_what_is_logged_later_whatever_it_holds(train, tmp_path):
  old = [{'step': step, 'loss': 1.0} for step in (1, 2, 3)]  # of the last release
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in old))
  train(2)
  assert [line['step'] for line in logged(tmp_path)] == [1, 2]
