"""A profiler's trace of a few training steps."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

# Steps that run before, so that nothing is compiled any more; and those that are traced.
_BEFORE, _TRACED = 3, 3
# Of JAX's profiler, which there is once in a process.
_TRACING = threading.Lock()


class StepTrace:
  """Traces a few steps of a training; a context manager.

  Of several trainings at once only the first one to ask is traced.
  """

  def __init__(
    self,
    folder: Path,
    start: int,
    on: bool,
    wait: Callable[[Any], Any] = jax.block_until_ready,
  ):
    """Begins nothing yet.

    Args:
      folder: the folder of the category's run; the trace goes to its profile/, as XProf and
        TensorBoard read it.
      start: the number of the first step.
      on: False for no trace at all.
      wait: waits for a state that is still being computed.
    """
    self._folder = folder / 'profile'
    self._first = start + _BEFORE if on else None
    self._wait = wait
    self._running = self._started = False

  def before_step(self, step: int, state: Any) -> None:
    """Begins or ends the trace where it is time.

    Args:
      step: number of the step that comes next.
      state: waited for at the end, so that the trace holds whole steps.
    """
    if self._first is None:
      return
    if step == self._first:
      if not _TRACING.acquire(blocking=False):
        return
      self._running = True
      self._wait(state)
      jax.profiler.start_trace(self._folder)
      self._started = True
    elif self._running and step == self._first + _TRACED:
      self._wait(state)
      self._end()

  def annotated(self, step: int) -> AbstractContextManager[Any]:
    """A context for one step, by whose number XProf groups what host and devices do in it.

    Args:
      step: number of the step, from 0.

    Returns:
      One that does nothing where no trace is running.
    """
    if not self._running:
      return nullcontext()
    return jax.profiler.StepTraceAnnotation('train', step_num=step)

  def __enter__(self) -> 'StepTrace':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._end()

  def _end(self) -> None:
    if not self._running:
      return
    self._running = False
    try:
      if self._started:
        jax.profiler.stop_trace()
    finally:
      _TRACING.release()
