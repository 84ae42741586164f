"""Stops a training whose terms are NaN or infinite, and says which was the first."""

import math
from collections.abc import Callable, Mapping

from memkd_jax.errors import UserError

# Sorts the names of terms so that causes come before their consequences.
CausalOrder = Callable[[list[str]], list[str]]
# (step) -> what before the terms is not finite, and a remedy for that; or None.
FindCause = Callable[[int], tuple[str, str] | None]


def check(
  name: str, step: int, terms: Mapping[str, float], order: CausalOrder, find_cause: FindCause
) -> None:
  """Raises where training has no meaning any more.

  Args:
    name: the task's name, for the error.
    step: the number of steps taken.
    terms: the logged values of the step.
    order: sorts the names of terms, causes first.
    find_cause: looks, in this case alone, at what the terms were computed from.

  Raises:
    UserError: a term is not finite; the first one is named, and before it what
      `find_cause` found.
  """
  bad = order([n for n, v in terms.items() if not math.isfinite(v)])
  if not bad:
    return
  remedy = 'A lower --config.train.learning_rate may help.'
  named = [f'{name}={terms[name]}' for name in bad]
  if cause := find_cause(step):
    named.insert(0, cause[0])
    remedy = cause[1]
  rest = f' (then {", ".join(named[1:])})' if named[1:] else ''
  raise UserError(
    f'{name}: training stopped at step {step}, where {named[0]} was the first that is not '
    f'finite{rest}; nothing after the last checkpoint was kept. {remedy}'
  )
