"""What is said of each training step: checked, shown and logged while the next one runs."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from memkd_jax.methods.distillation import System
from memkd_jax.training import nan_guard
from memkd_jax.training.metrics_log import MetricsLog


class StepLogger:
  """Checks the terms of each step once the next has begun, and logs them."""

  def __init__(
    self,
    system: System,
    category: str,
    log: MetricsLog,
    progress: tqdm,
    steps: int,
    images_of: Callable[[int], np.ndarray],
  ):
    self._system = system
    self._images_of = images_of
    self._devices = system.devices
    self._batch_size = system.config.train.batch_size
    self._log_steps = system.config.train.log_steps
    self._category = category
    self._log = log
    self._progress = progress
    self._steps = steps
    self._pending: tuple[int, Any] | None = None
    self._since = time.monotonic()
    self._images = 0
    self._input_since = 0.0
    self._stalled = 0.0

  def begin_input(self) -> None:
    """Notes the time at which the host turns to the next batch."""
    self._input_since = time.monotonic()

  def begin(self, step: int, terms: Any) -> None:
    """Takes the terms of a step that the device still works on."""
    # Where the step before has ended by now, the device waited for this one, and no
    # longer than its input took.
    if self._pending is not None and self._devices.is_ready(self._pending[1]):
      self._stalled += time.monotonic() - self._input_since
    self.finish()
    self._pending = step, terms

  def finish(self) -> dict[str, float]:
    """Handles the step that was begun last, waiting for the device if need be."""
    if self._pending is None:
      return {}
    step, replicated = self._pending
    self._pending = None
    terms = {
      name: float(value) for name, value in self._devices.unreplicate(replicated).items()
    }
    nan_guard.check(self._system, self._category, step, terms, self._images_of)
    self._images += self._batch_size
    self._progress.set_postfix_str(f'loss {terms["loss"]:.4f}', refresh=False)
    self._progress.update(self._batch_size)
    if step % self._log_steps == 0 or step == self._steps:
      now = time.monotonic()
      rate = self._images / (now - self._since)
      timing = {'images_per_second': rate, 'stall_seconds': self._stalled}
      self._since, self._images, self._stalled = now, 0, 0.0
      ordered = {name: terms[name] for name in sorted(terms, key=_log_order)}
      self._log.write(step, ordered | timing)
    return terms


def _log_order(term: str) -> tuple[int, str]:
  """The loss and its three parts first, then the rest by name."""
  first = ('loss', 'kd', 'nm', 'orth')
  return first.index(term) if term in first else len(first), term
