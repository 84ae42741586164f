"""Several processes that run as one: the only file that knows hosts.

All processes run the same program on the same inputs, each with its own devices'
share of every batch; only the first one reads and writes the run's folder. JAX's
own runtime connects them.
"""

import ctypes
import itertools
import json
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import (
  AbstractContextManager,
  ExitStack,
  contextmanager,
  redirect_stderr,
  redirect_stdout,
)
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from memkd_jax.errors import DiskFullError, UserError, explain, is_disk_full
from memkd_jax.runtime import interrupt

AUTO = 'auto'
_LOOPBACK = ('localhost', '127.0.0.1', '::1')
_T = TypeVar('_T')
_calls = itertools.count()  # of `reached_preemption`, over all trainings


def start(coordinator: str | None, process_count: int | None, process_id: int | None) -> None:
  """Joins the other processes of the run, before JAX is used for anything.

  Args:
    coordinator: None for a process alone, 'auto' for what JAX finds out by itself
      (TPU pod slices, SLURM, Open MPI, Kubernetes), or HOST:PORT of the first process.
    process_count: with HOST:PORT, how many processes there are.
    process_id: with HOST:PORT, which of them this is, from 0.

  Raises:
    UserError: these do not fit together, or the processes have different numbers of
      devices.
  """
  here = {'num_processes': process_count, 'process_id': process_id}
  given = [value for value in here.values() if value is not None]
  if not coordinator or coordinator == AUTO:
    if given:
      raise UserError('--process-count and --process-id need --coordinator=HOST:PORT.')
    if not coordinator:
      return
    arguments: dict[str, Any] = {}
    remedy = 'name it with --coordinator=HOST:PORT, --process-count and --process-id'
  else:
    host = _check_address(coordinator)
    if process_count is None or process_id is None or not 0 <= process_id < process_count:
      raise UserError(
        f'--coordinator={coordinator} needs --process-count=N and a --process-id of 0 to N-1.'
      )
    arguments = here | {'coordinator_address': coordinator}
    if host in _LOOPBACK:  # JAX would listen on every network of the machine
      arguments['coordinator_bind_address'] = coordinator
    remedy = 'start all processes, with the same coordinator and count'
    print(f'Process {process_id} of {process_count} looks for the others at {coordinator}.')
  # Without it CPU devices of several processes could not exchange anything.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
    raise UserError(
      f'--coordinator={coordinator}: there is nothing to join ({reason}); {remedy}.'
    ) from error
  owners = [device.process_index for device in jax.devices()]
  numbers = [owners.count(i) for i in sorted(set(owners))]
  if len(set(numbers)) > 1:
    raise UserError(
      f'The processes have {", ".join(map(str, numbers))} devices; give each as many.'
    )
  if count() > 1:
    interrupt.share(_take_sigterm_from_jax(), reached_preemption)


def count() -> int:
  """How many processes run together."""
  return jax.process_count()


def is_main() -> bool:
  """Whether this is the process that reads and writes the run's folder."""
  return jax.process_index() == 0


@contextmanager
def one_run() -> Iterator[None]:
  """What processes do together from beginning to end: they say it once.

  An error that they do not share ends this process at once, with one sentence where it
  is known: the others may be waiting for it, and JAX's own end would wait for them.
  """
  if count() == 1:
    yield
    return
  with ExitStack() as stack:
    if not is_main():
      nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
      stack.enter_context(redirect_stdout(nowhere))
      stack.enter_context(redirect_stderr(nowhere))
    try:
      yield
    except (UserError, interrupt.Interrupted, SystemExit):
      raise
    except BaseException as error:
      stack.close()
      _say_why(error)
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(1)


def _say_why(error: BaseException) -> None:
  remedy = 'the same command in all processes resumes from the last checkpoint'
  match error:
    case OSError():
      print(f'memkd_jax: {explain(error)}', file=sys.stderr)
    case jax.errors.JaxRuntimeError():
      reason = str(error).splitlines()[0].rstrip('.')
      print(
        f'memkd_jax: another process has ended, or a device has failed ({reason}); {remedy}.',
        file=sys.stderr,
      )
    case _:
      traceback.print_exception(error)


def reached_preemption() -> bool:
  """Whether a signal came to any of several processes, and all are to end here.

  JAX finds the next of these calls that none of them has made yet. It is true once.
  """
  # Not the number of the step, which begins anew with each category: what was agreed on
  # at the end of one would lie behind the end of the next.
  return count() > 1 and multihost_utils.reached_preemption_sync_point(next(_calls))


def _take_sigterm_from_jax() -> Callable[[], None]:
  """Takes JAX's handler of SIGTERM away, to be called after ours.

  It does no more than to note the signal, which JAX then tells the other processes.
  There is no other way to it: Python does not know handlers that are not its own.
  """
  set_handler = ctypes.CDLL(None).signal
  set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
  address = set_handler(signal.SIGTERM, None)
  if address in (None, int(signal.SIG_IGN)):
    raise UserError(
      'JAX does not pass signals on to other processes here; take '
      'JAX_ENABLE_PREEMPTION_SERVICE out of the environment.'
    )
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
  return lambda: handler(signal.SIGTERM)


def shared_errors() -> tuple[type[Exception], ...]:
  """What all processes raise together, so that they can go on together after it."""
  return (UserError, OSError) if count() == 1 else (UserError,)


@contextmanager
def raise_together() -> Iterator[None]:
  """Makes an error of one process one of all: none goes on alone.

  The body must not communicate.

  Raises:
    UserError: there was one, or an OSError, in this or in another process; a
      `DiskFullError` where a disk is full.
  """
  if count() == 1:
    yield
    return
  problem: Exception | None = None
  try:
    yield
  except (UserError, OSError) as error:
    problem = error
  told = exchange(problem and [is_disk_full(problem), explain(problem)])
  for i, other in enumerate(told):
    if other is not None:
      disk_full, text = other
      kind = DiskFullError if disk_full else UserError
      raise kind(f'Process {i}: {text}') from problem


@contextmanager
def held_by_main(held: AbstractContextManager) -> Iterator[None]:
  """Enters `held` in the first process alone; what it raises there, all raise."""
  with ExitStack() as stack:
    with raise_together():
      if is_main():
        stack.enter_context(held)
    yield


def on_main(function: Callable[[], _T]) -> _T:
  """Calls `function` in the first process; all get its value, or its error.

  Args:
    function: must not communicate; its value is made of JSON's types.
  """
  value: Any = None
  with raise_together():
    if is_main():
      value = function()
  return exchange(value)[0]


def broadcast_from_main(tree: Any) -> Any:
  """The first process's tree of numpy arrays, in all processes.

  Args:
    tree: of the same structure, shapes and dtypes everywhere.
  """
  if count() == 1:
    return tree
  return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def check_same(describe: Callable[[], Any], what: str) -> None:
  """Raises UserError in all processes unless they have something in common.

  Args:
    describe: gives a JSON value of it.
    what: it is, for the error.
  """
  if count() == 1:
    return
  values = exchange(describe())
  different = [str(i) for i, other in enumerate(values) if other != values[0]]
  if different:
    raise UserError(
      f'Process 0 and process {", ".join(different)} have different {what}; start all of '
      'them with the same flags, on the same data and weights.'
    )


def gather(array: np.ndarray) -> np.ndarray:
  """Concatenates the arrays of all processes, [P, ...] each, in all of them."""
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def exchange(value: Any) -> list[Any]:
  """The JSON values of all processes, in their order."""
  if count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
  # Powers of two, since each size is compiled anew.
  padded = np.zeros(max(1024, 1 << int(np.max(sizes) - 1).bit_length()), np.uint8)
  padded[: len(data)] = data
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _check_address(address: str) -> str:
  """The host of HOST:PORT or of [HOST]:PORT; raises UserError where it is none."""
  found = re.fullmatch(r'(?:\[([^]]+)\]|([^:]+)):(\d{1,5})', address)
  if not found or not 0 < int(found[3]) < 65536:
    raise UserError(f'--coordinator={address}: give auto, or HOST:PORT of the first process.')
  host = found[1] or found[2]
  try:
    socket.getaddrinfo(host, int(found[3]))
  except OSError as error:
    raise UserError(f'--coordinator={address}: {host} is not known ({error}).') from error
  return host
