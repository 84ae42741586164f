"""What processes that run as one do together, once `join.start` has joined them.

All processes run the same program on the same inputs, each with its own devices' share of
every batch; only the first one reads and writes the run's folder.
"""

import itertools
import json
import os
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

_T = TypeVar('_T')
_calls = itertools.count()  # of `reached_preemption`, over all trainings


def count() -> int:
  """How many processes run together."""
  return jax.process_count()


def is_main() -> bool:
  """Whether this is the process that reads and writes the run's folder."""
  return jax.process_index() == 0


@contextmanager
def one_run() -> Iterator[None]:
  """Runs its body in all processes as one run: only the first process prints.

  An error that not all processes share ends this process at once, with one sentence where
  the reason is known: the others may be waiting for it, and JAX's own end would wait for
  them.
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
  """Whether a signal came to any of several processes, so that all are to end here.

  All processes must call it equally often. After a signal JAX looks for the next call that
  no process has made yet: that one returns True, in every process, and no other does.
  """
  # Not the number of the step, which begins anew with each category: a call that was agreed
  # on at the end of one category would be passed over in the next.
  return count() > 1 and multihost_utils.reached_preemption_sync_point(next(_calls))


def shared_errors() -> tuple[type[Exception], ...]:
  """The errors that all processes raise together, so that they can go on after one."""
  return (UserError, OSError) if count() == 1 else (UserError,)


@contextmanager
def raise_together() -> Iterator[None]:
  """Raises in all processes what its body raises in any of them, so that none goes on alone.

  The body must not communicate with other processes.

  Raises:
    UserError: the body raised a UserError or an OSError in any process; a `DiskFullError`
      where a disk is full. A process alone gets its own error as it is.
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
  """Enters a context in the first process alone; an error on entering is raised in all.

  Args:
    held: the context, a lock for example.
  """
  with ExitStack() as stack:
    with raise_together():
      if is_main():
        stack.enter_context(held)
    yield


def on_main(function: Callable[[], _T]) -> _T:
  """Calls a function in the first process; all processes get its value, or its error.

  Args:
    function: must not communicate with other processes, and returns a JSON value.
  """
  value: Any = None
  with raise_together():
    if is_main():
      value = function()
  return exchange(value)[0]


def broadcast_from_main(tree: Any) -> Any:
  """The first process's tree of numpy arrays, in all processes.

  Args:
    tree: numpy arrays, of the same structure, shapes and dtypes in every process.
  """
  if count() == 1:
    return tree
  return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def bytes_from_main(content: bytes) -> bytes:
  """The main process's bytes, in all processes; what the others give is of no account."""
  if count() == 1:
    return content
  size = exchange(len(content))[0]
  array = np.frombuffer(content, np.uint8) if is_main() else np.zeros(size, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(array), np.uint8).tobytes()


def check_same(
  describe: Callable[[], Any], what: str, compare: Callable[[Any, Any], str] | None = None
) -> None:
  """Raises UserError in all processes unless they have something in common.

  Args:
    describe: returns what is compared, a JSON value; called where there are several processes.
    what: name of what is compared, for the error.
    compare: gives words for what another process has that the first one has not, for the error.
  """
  if count() == 1:
    return
  values = exchange(describe())
  different = {str(i): other for i, other in enumerate(values) if other != values[0]}
  if different:
    first, other = next(iter(different.items()))
    how = '' if compare is None else f' (of process {first}, {compare(values[0], other)})'
    raise UserError(
      f'Process 0 and process {", ".join(different)} have different {what}{how}; start all of '
      'them with the same flags, on the same data and weights.'
    )


def gather(array: np.ndarray) -> np.ndarray:
  """Concatenates the arrays of all processes, [P, ...] each, in all of them."""
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def exchange(value: Any) -> list[Any]:
  """The JSON values of all processes, in the order of their numbers."""
  if count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
  # Powers of two, since each size is compiled anew.
  padded = np.zeros(max(1024, 1 << int(np.max(sizes) - 1).bit_length()), np.uint8)
  padded[: len(data)] = data
  rows = np.asarray(multihost_utils.process_allgather(padded))
  return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
