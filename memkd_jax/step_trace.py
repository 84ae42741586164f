"""A profiler's trace of a few training steps."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

# Steps that run before, so that nothing is compiled any more; and those that are traced.
_BEFORE, _TRACED = 3, 3


class StepTrace:
  """Traces a few steps of a training; a context manager."""

  def __init__(self, folder: Path, start: int, on: bool):
    """Begins nothing yet.

    Args:
      folder: of the category's run; the trace goes to its profile/, as XProf and
        TensorBoard read it.
      start: the number of the first step.
      on: False for no trace at all.
    """
    self._folder = folder / 'profile'
    self._first = start + _BEFORE if on else None
    self._running = False

  def before_step(self, step: int, state: Any) -> None:
    """Begins or ends the trace where it is time.

    Args:
      step: that comes next.
      state: waited for at the end, so that the trace holds whole steps.
    """
    if self._first is None:
      return
    if step == self._first:
      jax.block_until_ready(state)
      jax.profiler.start_trace(self._folder)
      self._running = True
    elif step == self._first + _TRACED:
      jax.block_until_ready(state)
      self._end()

  def __enter__(self) -> 'StepTrace':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._end()

  def _end(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
