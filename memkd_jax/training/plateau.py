"""A rule that ends a training: the loss on held-out normal images falls no more.

What it has seen is a file beside the checkpoints, so that a resumed training ends where an
undisturbed one does. The images are normal and no test images; they are not learned from, nor
are those that a threshold is made of, whose scores would be too good if they chose the model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memkd_jax.runtime import hosts
from memkd_jax.training import metrics_log

FILE = 'plateau.jsonl'
# The loss has fallen where it is lower than ever before by this share.
_LEAST_FALL = 0.01


class Plateau:
  """Ends a training whose held-out loss has not fallen for some checks."""

  def __init__(
    self,
    folder: Path,
    loss: Callable[[Any], float],
    check_steps: int,
    patience: int,
  ):
    """Opens nothing yet.

    Args:
      folder: the task's folder, for plateau.jsonl.
      loss: gives the held-out loss of a state on the devices, in all processes.
      check_steps: steps from one check to the next.
      patience: number of checks without a fall that end the training.
    """
    self._folder, self._loss = folder, loss
    self._check_steps, self._patience = check_steps, patience
    self._losses: list[float] = []

  def begin(self, step: int) -> bool:
    """Reads the checks up to a step, and forgets later ones.

    Args:
      step: the step of the checkpoint that the training goes on from, 0 where there is none.

    Returns:
      Whether the training had ended with it.
    """

    def known() -> list[float]:
      log = metrics_log.JsonLines(self._folder, step, FILE)
      log.close()
      return [line['loss'] for line in metrics_log.read(self._folder / FILE)]

    self._losses = list(hosts.on_main(known))
    return self._has_ended()

  def check(self, step: int, state: Any) -> bool:
    """Looks at a state where it is time, and says whether the training ends.

    Args:
      step: the number of steps taken.
      state: the training's state, on the devices.
    """
    if step % self._check_steps:
      return False
    loss = self._loss(state)

    def write() -> None:
      log = metrics_log.JsonLines(self._folder, step - 1, FILE)
      log.write(step, {'loss': loss})
      log.close()

    hosts.on_main(write)
    self._losses.append(loss)
    return self._has_ended()

  def _has_ended(self) -> bool:
    return has_levelled(self._losses, self._patience)


def has_levelled(losses: Sequence[float], patience: int) -> bool:
  """Whether none of the last losses is lower than the lowest before them, by a hundredth.

  Args:
    losses: held-out losses, in their order.
    patience: number of the last losses that are looked at.
  """
  before, last = losses[:-patience], losses[-patience:]
  return bool(before) and not min(last) < (1 - _LEAST_FALL) * min(before)
