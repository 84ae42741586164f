"""Which region of interest a task has: what a file shows, or what its model has kept of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memkd_jax.data.framing import ALPHA
from memkd_jax.data.images import read_region
from memkd_jax.errors import UserError
from memkd_jax.workdir.model import TrainedModel

_CATEGORY = '{category}'


def choose_region(
  roi: str, name: str, categories: Sequence[str], known: TrainedModel | None, anew: str
) -> np.ndarray | None:
  """The region of a task.

  Args:
    roi: `data.roi`.
    name: of the task.
    categories: that it learns from.
    known: its model, where there is one.
    anew: what there is to do about a model of another region.

  Returns:
    bool [h, w]; None where `roi` names no file.

  Raises:
    UserError: there is no such file, or the task's model has another region.
  """
  if known is not None:
    of_model = known.config.data.get('roi', '')
    kinds = {value if value in ('', ALPHA) else 'FILE' for value in (roi, of_model)}
    if len(kinds) > 1:
      raise UserError(
        f'--config.data.roi={roi}: {name} was trained with {of_model or "none"}; give that, or '
        f'{anew}.'
      )
  if roi in ('', ALPHA):
    return None
  if _CATEGORY in roi and len(categories) > 1:
    raise UserError(
      f'--config.data.roi={roi}: one model learns from {", ".join(categories)}, and has one '
      'region of interest alone; name one file.'
    )
  file = Path(roi.replace(_CATEGORY, ''.join(categories)))
  trained = None if known is None else known.region
  if file.is_file():
    region = read_region(file)
    if trained is not None and not np.array_equal(region, trained):
      raise UserError(
        f'{file} is not the region of interest that {name} was trained with; give that one '
        f'with --config.data.roi, or {anew}.'
      )
    return region
  if trained is None:
    raise UserError(
      f'--config.data.roi={file} is not there; name a picture that is white inside of the '
      'region of interest.'
    )
  return trained


def region_digest(region: np.ndarray) -> str:
  """What tells a region, bool [h, w], from others: hexadecimal digits."""
  return hashlib.sha256(repr(region.shape).encode() + region.tobytes()).hexdigest()
