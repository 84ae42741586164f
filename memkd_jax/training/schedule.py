"""How the learning rate goes over a training, as a factor of the rate that the config has."""

import math

SCHEDULES = ('constant', 'cosine')


def rate_factor(schedule: str, warmup: float, step: int, steps: int) -> float:
  """The factor of one step.

  Args:
    schedule: 'constant'; or 'cosine', which rises on a line to 1 and falls on half a cosine
      to 0.
    warmup: share of the steps that it rises.
    step: number of the step, from 0.
    steps: number of all steps of the training.

  Returns:
    In (0, 1], but for the last step of a cosine, which may get as near to 0 as it likes.
  """
  if schedule == 'constant':
    return 1.0
  rising = round(warmup * steps)
  if step < rising:
    return (step + 1) / (rising + 1)
  return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
