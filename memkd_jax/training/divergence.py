"""Whether a training that ended with finite figures has nevertheless diverged."""

import statistics
from pathlib import Path

from memkd_jax.training import metrics_log

# A loss that is a weighted sum of bounded distances cannot explode, but it can return to where
# it began; trainings that went well end within a tenth of their lowest loss. One that has no
# bound can fall a thousandfold, and by then it may double as it goes: a training has diverged
# where it also gave back a tenth of what it had gained.
_FACTOR = 2.0
_SHARE = 0.1
_PARTS = 10


def describe(log: Path, category: str) -> str | None:
  """Compares the loss at the end with the lowest that it had reached.

  Both are medians over a tenth of the training, so that single steps do not count.

  Args:
    log: metrics.jsonl of the whole training.
    category: name of what was trained, for the sentence.

  Returns:
    A sentence where the loss ended far above, else None, and where too few steps were
    logged to tell.
  """
  losses = [line['loss'] for line in metrics_log.read(log) if 'loss' in line]
  length = len(losses) // _PARTS
  if length == 0:
    return None
  begins = [*range(0, len(losses) - length, length), len(losses) - length]
  course = [statistics.median(losses[begin : begin + length]) for begin in begins]
  lowest, rise = min(course), course[-1] - min(course)
  if course[-1] <= _FACTOR * lowest or rise <= _SHARE * (course[0] - lowest):
    return None
  return (
    f'The training of {category} diverged: its loss was {course[0]:.3g} at first, '
    f'{lowest:.3g} at its lowest and {course[-1]:.3g} at the end; a lower '
    '--config.train.learning_rate may help.'
  )
