"""Several tasks at once, one on each device.

A lane is a device with a thread that serves it and programs of its own. Nothing is shared
but the queue of tasks, so a lane neither waits for another nor fails with it.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices

_Worker = TypeVar('_Worker')
_Task = TypeVar('_Task')


def check(axis: str) -> None:
  """Raises UserError where parallel.axis='category' cannot be had."""
  if axis == 'category' and hosts.count() > 1:
    raise UserError(
      '--config.parallel.axis=category is for the devices of one process; leave '
      '--coordinator out, or share out every batch with --config.parallel.axis=batch.'
    )


def devices(axis: str, tasks: int) -> list[Devices]:
  """The devices of each lane: all of them in one, or one in each.

  Args:
    axis: 'batch' or 'category', what the devices share out.
    tasks: the number of tasks, beyond which no lane is of use.
  """
  everything = Devices()
  if axis == 'batch':
    return [everything]
  lanes = max(1, min(len(everything), tasks))
  return [Devices([device], sharing=lanes) for device in everything.local[:lanes]]


def run_all(
  workers: Sequence[_Worker], tasks: Iterable[_Task], run_one: Callable[[_Worker, _Task], None]
) -> None:
  """Runs tasks, as many at once as there are workers; who has ended takes the next.

  Args:
    workers: the workers, one for each lane.
    tasks: the tasks, in the order in which they begin.
    run_one: `(worker, task)`. What it raises ends everything, once the tasks that are
      going on have ended.
  """
  if len(workers) == 1:
    for task in tasks:
      run_one(workers[0], task)
    return
  waiting: queue.SimpleQueue[_Task] = queue.SimpleQueue()
  for task in tasks:
    waiting.put(task)
  failed = threading.Event()

  def work(worker: _Worker) -> None:
    while not failed.is_set():
      try:
        task = waiting.get_nowait()
      except queue.Empty:
        return
      try:
        run_one(worker, task)
      except BaseException:
        failed.set()
        raise

  with ThreadPoolExecutor(len(workers), thread_name_prefix='lane') as pool:
    futures = [pool.submit(work, worker) for worker in workers]
    try:
      wait(futures, return_when=FIRST_EXCEPTION)
    except BaseException:
      failed.set()
      with interrupt.passed_on():  # the lanes save their step
        wait(futures)
      raise
  for future in futures:
    future.result()
