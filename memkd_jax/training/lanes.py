"""Trains several categories at once, one on each device.

One program, pmapped without collectives over the categories' stacked states, takes a
step of all of them; it is compiled once for all devices. Whatever else belongs to a
category (its data, its checkpoints, its log, its evaluation) is done by a thread of
its own, with the code of a single run.
"""

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import jax

from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.training.step import Batch


def run_all(
  system: System,
  runs: Iterable[tuple[int, str]],
  run_one: Callable[[System, int, str], None],
) -> None:
  """Calls `run_one(system, seed, category)` for each run.

  With parallel.axis='batch' one after the other, with all devices. With 'category' as
  many at once as there are devices; a device whose run has ended takes the next.

  Args:
    system: the compiled steps.
    runs: (seed, category).
    run_one: trains and evaluates with the system that it is given. What it raises ends
      everything, once the runs that are going on have ended.
  """
  if system.config.parallel.axis == 'batch':
    for seed, category in runs:
      run_one(system, seed, category)
    return
  waiting: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
  for run in runs:
    waiting.put(run)
  lanes = min(len(system.devices), waiting.qsize())
  if not lanes:
    return
  lockstep = Lockstep(system, lanes)
  failed = threading.Event()

  def work(lane: System) -> None:
    while not failed.is_set():
      try:
        seed, category = waiting.get_nowait()
      except queue.Empty:
        return
      try:
        run_one(lane, seed, category)
      except BaseException:
        failed.set()
        raise

  with ThreadPoolExecutor(lanes, thread_name_prefix='lane') as pool:
    futures = [pool.submit(work, lane) for lane in lockstep.lanes]
    try:
      wait(futures, return_when=FIRST_EXCEPTION)
    except interrupt.Interrupted:  # the lanes see by themselves that a signal came
      failed.set()
      raise
    except BaseException:
      failed.set()
      lockstep.stop()
      raise
  for future in futures:
    future.result()


def check(config: Any) -> None:
  """Raises UserError where parallel.axis='category' cannot be had."""
  if config.parallel.axis == 'category' and hosts.count() > 1:
    raise UserError(
      '--config.parallel.axis=category is for the devices of one process; leave '
      '--coordinator out, or share out every batch with --config.parallel.axis=batch.'
    )


class Lockstep:
  """The stacked states of the lanes, of which all take their steps together.

  A lane is a device with the thread that serves it. A step is taken as soon as all
  lanes that are in training want one. The others, which load or evaluate or have
  nothing left to do, repeat what they did last, and nobody looks at it.

  Attributes:
    lanes: for each device a system whose `train_step` waits for the others'.
  """

  def __init__(self, system: System, number: int):
    """Takes the first `number` devices of a system without an axis name."""
    self._devices = Devices(system.devices.local[:number])
    params = system.devices.unstack(system.teacher_params)[:number]
    self._teacher_params = self._devices.stack(params)
    self._step = self._devices.map(system.step, donate=[0])
    self.lanes = []
    for i, own_params in enumerate(params):
      devices = _LaneDevices(self._devices, i)
      lane = system.moved_to(devices, devices.stack([own_params]))
      lane.train_step = functools.partial(self._take_step, lane, i)
      lane.training = functools.partial(self._training_of, i)
      self.lanes.append(lane)
    self._changed = threading.Condition()  # guards all that follows
    self._state: Any = None
    self._training: set[int] = set()
    self._wanted: dict[int, _Batches] = {}
    self._last: dict[int, _Batches] = {}
    self._taken: dict[int, Any] = {}
    self._stopped = False

  def stop(self) -> None:
    """Ends the training of all lanes."""
    with self._changed:
      self._stopped = True
      self._changed.notify_all()

  def _take_step(
    self, lane: System, i: int, state: Any, _: Any, batch: Batch, exemplars: Batch | None
  ) -> tuple['_Row', '_Row']:
    """A lane's `train_step`; instead of arrays it gives what its devices can fetch."""
    batches = tuple(None if b is None else _with_features(lane, b) for b in (batch, exemplars))
    with self._changed:
      if not isinstance(state, _Row):
        self._begin(i, state)
      self._training.add(i)
      self._wanted[i] = batches
      self._step_if_all_want()
      self._changed.wait_for(lambda: i in self._taken or self._stopped)
      if self._stopped:
        raise _StoppedError
      taken = self._taken.pop(i)
      if isinstance(taken, Exception):
        raise taken
      return _Row(lambda: self._state, i), _Row(lambda: taken, i)

  @contextmanager
  def _training_of(self, i: int) -> Iterator[None]:
    try:
      yield
    finally:
      with self._changed:
        self._training.discard(i)
        self._wanted.pop(i, None)
        self._step_if_all_want()

  def _begin(self, i: int, state: Any) -> None:
    """Puts a lane's first state, leaves [1, ...], in its place."""
    if self._state is None:
      rows = [state] * len(self._devices)  # the others repeat something, for now this
    else:
      rows = self._devices.unstack(self._state)
    rows[i] = state
    self._state = self._devices.stack(rows)

  def _step_if_all_want(self) -> None:
    if not self._wanted or self._wanted.keys() != self._training:
      return
    anything = next(iter(self._wanted.values()))
    for i, device in enumerate(self._devices.local):
      if i in self._wanted:
        self._last[i] = self._wanted[i]
      elif i not in self._last:
        self._last[i] = jax.device_put(anything, device)
    taken: Any
    try:
      stacked = self._devices.stack([self._last[i] for i in range(len(self._devices))])
      self._state, taken = self._step(self._state, self._teacher_params, *stacked)
    except Exception as error:  # every lane must hear of it
      taken = error
    self._taken |= dict.fromkeys(self._wanted, taken)
    self._wanted = {}
    self._changed.notify_all()


_Batches = tuple[Batch | None, ...]


class _StoppedError(Exception):
  """Training was ended from outside."""


class _Row:
  """One lane's part of a stacked tree, to be fetched before the lane's next step."""

  def __init__(self, tree: Callable[[], Any], lane: int):
    self.tree = tree
    self.lane = lane


class _LaneDevices(Devices):
  """One of several devices that share a host and a stacked tree."""

  def __init__(self, whole: Devices, lane: int):
    super().__init__([whole.local[lane]])
    self._whole = whole

  def free_memory(self) -> tuple[int, int]:
    device, host = super().free_memory()
    return device, host // len(self._whole)

  def unreplicate(self, tree: Any, row: int = 0) -> Any:
    if isinstance(tree, _Row):
      return self._whole.unreplicate(tree.tree(), tree.lane)
    return super().unreplicate(tree, row)

  def wait(self, tree: Any) -> None:
    super().wait(tree.tree() if isinstance(tree, _Row) else tree)

  def is_ready(self, tree: Any) -> bool:
    # A lane that finds its device idle has perhaps waited for another lane.
    return not isinstance(tree, _Row) and super().is_ready(tree)


def _with_features(lane: System, batch: Batch) -> Batch:
  """Computes the teacher's features where they are not kept: all lanes need the same."""
  if batch.features is not None:
    return batch
  return Batch(batch.images, lane.teacher_step(lane.teacher_params, batch.images))
