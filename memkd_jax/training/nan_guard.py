"""Which of the terms of a step was the first to be NaN or infinite."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.training.feature_cache import compute_features

# Causes before consequences: parameters, the student's pass, the parts of the loss,
# their sum, the gradient.
_ORDER = (
  r'm\d_(keys|values)_cosine',
  r'm\d_entropy',
  r'kd_\d',
  'kd',
  'nm',
  'orth',
  'loss',
  'grad_norm',
)


def check(
  system: System,
  category: str,
  step: int,
  terms: Mapping[str, float],
  images_of: Callable[[int], np.ndarray],
) -> None:
  """Raises where training has no meaning any more.

  Args:
    system: that took the step.
    category: named in the error.
    step: number of steps taken.
    terms: of the step, see `training_step.make_train_step`.
    images_of: gives the uint8 images [N, S, S, 3] that a step looked at.

  Raises:
    UserError: a term is not finite; the first one is named, and before it the
      teacher's features, if those are not finite either.
  """
  bad = order([n for n, v in terms.items() if not math.isfinite(v)], system.running_order)
  if not bad:
    return
  remedy = 'A lower --config.train.learning_rate may help.'
  named = [f'{name}={terms[name]}' for name in bad]
  # Only now: their features are not looked at where all is well.
  if stage := _bad_teacher_stage(system, images_of(step)):
    named.insert(0, f"the teacher's stage {stage}")
    remedy = f'Check {system.config.model.teacher_weights} and the machine.'
  rest = f' (then {", ".join(named[1:])})' if named[1:] else ''
  raise UserError(
    f'{category}: training stopped at step {step}, where {named[0]} was the first that is not '
    f'finite{rest}; nothing after the last checkpoint was kept. {remedy}'
  )


def order(terms: Sequence[str], running_order: Sequence[int]) -> list[str]:
  """Sorts the names of terms so that causes come before their consequences.

  Args:
    terms: names; unknown ones come last.
    running_order: of the stages in the student, each of which takes what the one
      before it gave.
  """

  def rank(name: str) -> tuple[int, int, str]:
    kind = next((i for i, p in enumerate(_ORDER) if re.fullmatch(p, name)), len(_ORDER))
    digit = re.search(r'\d', name)
    known = digit is not None and int(digit[0]) in running_order
    return kind, running_order.index(int(digit[0])) if digit and known else 0, name

  return sorted(terms, key=rank)


def _bad_teacher_stage(system: System, images: np.ndarray) -> int | None:
  batch_size = system.config.train.batch_size
  features = compute_features(
    system.devices, system.teacher_step, system.teacher_params, images, batch_size
  )
  finite = [bool(np.isfinite(np.asarray(f, np.float32)).all()) for f in features]
  return None if all(finite) else 1 + finite.index(False)
