"""What is said of each training step: checked, shown and logged while the next one runs."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from memkd_jax.runtime.devices import Devices
from memkd_jax.training.metrics_log import MetricsLog

_PERCENTILES = (50, 90, 99)
# Of so many steps at most the times are remembered: a hundredth of them is still ten steps.
_REMEMBERED = 1000


class StepTimes:
  """How long steps take, from the end of one to the end of the next, in seconds.

  The first step, which compiles, has no end before it and is left out. What lies between two
  steps belongs to the later one, the saving of a checkpoint for example.
  """

  def __init__(self) -> None:
    """Knows of no step."""
    self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
    self._ended: float | None = None

  def end_step(self, now: float) -> None:
    """Notes that a step has ended.

    Args:
      now: the time, in seconds of any clock that does not go back.
    """
    if self._ended is not None:
      self._seconds.append(now - self._ended)
    self._ended = now

  def percentiles(self) -> dict[str, float]:
    """{'step_seconds_p50', '_p90', '_p99'} of the last 1,000 steps; {} without any."""
    if not self._seconds:
      return {}
    found = np.percentile(self._seconds, _PERCENTILES)
    return {
      f'step_seconds_p{percentile}': float(value)
      for percentile, value in zip(_PERCENTILES, found, strict=True)
    }


class StepLogger:
  """Checks the terms of each step once the next has begun, and logs them."""

  def __init__(
    self,
    devices: Devices,
    log: MetricsLog,
    progress: tqdm,
    *,
    batch_size: int,
    log_steps: int,
    check: Callable[[int, Mapping[str, float]], None],
    order: Callable[[Iterable[str]], list[str]],
  ):
    """Begins at the first step that is to be taken.

    Args:
      devices: the devices that the terms lie on.
      log: the log that gets every `log_steps`-th step, and the last.
      progress: the progress bar, which counts images.
      batch_size: images of a step, of all devices together.
      log_steps: steps from one logged line to the next.
      check: `(step, terms)`; raises where training has no meaning any more.
      order: sorts the names of terms for the log.
    """
    self._devices, self._log, self._progress = devices, log, progress
    self._batch_size, self._log_steps = batch_size, log_steps
    self._check, self._order = check, order
    self._pending: tuple[int, Any] | None = None
    self._since = time.monotonic()
    self._times = StepTimes()
    self._images = 0
    self._input_since = 0.0
    self._stalled = 0.0

  def begin_input(self) -> None:
    """Notes the time at which the host turns to the next batch."""
    self._input_since = time.monotonic()

  def begin(self, step: int, terms: Any) -> None:
    """Takes the terms of a step that the device still works on.

    Args:
      step: the number of steps taken with it.
      terms: the terms of the loss, {name: scalar}, replicated.
    """
    # Where the step before has ended by now, the device waited for this one, and no
    # longer than its input took.
    if self._pending is not None and self._devices.is_ready(self._pending[1]):
      self._stalled += time.monotonic() - self._input_since
    self.finish()
    self._pending = step, terms

  def finish(self, last: bool = False) -> dict[str, float]:
    """Handles the step that was begun last, waiting for the device if need be.

    Args:
      last: whether the training ends with it.
    """
    if self._pending is None:
      return {}
    step, replicated = self._pending
    self._pending = None
    on_host = self._devices.unreplicate(replicated)
    now = time.monotonic()
    self._times.end_step(now)
    terms = {name: float(value) for name, value in on_host.items()}
    self._check(step, terms)
    self._images += self._batch_size
    self._progress.set_postfix_str(f'loss {terms["loss"]:.4f}', refresh=False)
    self._progress.update(self._batch_size)
    if step % self._log_steps == 0 or last:
      rate = self._images / (now - self._since)
      timing = {'images_per_second': rate, 'stall_seconds': self._stalled}
      self._since, self._images, self._stalled = now, 0, 0.0
      costs = timing | self._times.percentiles() | self._devices.memory_use()
      self._log.write(step, {name: terms[name] for name in self._order(terms)} | costs)
    return terms
