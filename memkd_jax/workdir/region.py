"""Which region of interest a task has: what a file shows, or what its model has kept of it."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from memkd_jax.data.framing import ALPHA
from memkd_jax.data.images import read_region
from memkd_jax.errors import UserError
from memkd_jax.workdir.model import TrainedModel

_CATEGORY, _FILE = '{category}', 'FILE'


def check_roi(root: Path, before: str | None, roi: str, regions: Iterable[np.ndarray]) -> None:
  """Checks `data.roi` before anything of a run is written.

  Args:
    root: the run's folder, for the error.
    before: the value of `data.roi` in the run that is there; None where there is none.
    roi: the value of `data.roi` in this run.
    regions: the regions of the models that are there, and stay, bool [h, w] each.

  Raises:
    UserError: there is no such file, or the run that is there has another region.
  """
  if before is not None and _kind(before) != _kind(roi):
    remedy = f'give --config.data.roi={before}' if before else 'leave --config.data.roi out'
    raise UserError(
      f'{root} holds a run {_with(before)}, and this one would be {_with(roi)}; {remedy}, or '
      'choose another --workdir.'
    )
  if _kind(roi) != _FILE or _CATEGORY in roi:
    return
  file = Path(roi)
  if not file.is_file():
    if roi != before:
      raise UserError(_missing(file))
    return
  region = read_region(file)
  for trained in regions:
    if not np.array_equal(region, trained):
      raise UserError(_other(file, before == roi, f'the models in {root} were'))


def choose_region(
  roi: str, name: str, categories: Sequence[str], known: TrainedModel | None
) -> np.ndarray:
  """The region of a task, bool [h, w].

  Args:
    roi: the value of `data.roi`, which names a file.
    name: name of the task, for the error.
    categories: the categories that the task learns from.
    known: the task's model, where there is one.

  Raises:
    UserError: there is no such file, or the task's model has another region.
  """
  if _CATEGORY in roi and len(categories) > 1:
    raise UserError(
      f'--config.data.roi={roi}: one model learns from {", ".join(categories)}, and has one '
      'region of interest alone; name one file.'
    )
  file = Path(roi.replace(_CATEGORY, ''.join(categories)))
  trained = None if known is None else known.region
  if not file.is_file():
    if trained is None:
      raise UserError(_missing(file))
    return trained
  region = read_region(file)
  if trained is not None and not np.array_equal(region, trained):
    same = known is not None and known.config.data.get('roi') == roi
    raise UserError(_other(file, same, f'{name} was'))
  return region


def region_digest(region: np.ndarray) -> str:
  """What tells a region, bool [h, w], from others: hexadecimal digits."""
  return hashlib.sha256(repr(region.shape).encode() + region.tobytes()).hexdigest()


def _kind(roi: str) -> str:
  return roi if roi in ('', ALPHA) else _FILE


def _with(roi: str) -> str:
  return {'': 'without a region of interest', ALPHA: 'with that of each alpha channel'}.get(
    roi, f'with the region of interest {roi}'
  )


def _missing(file: Path) -> str:
  what = 'is a folder' if file.is_dir() else 'is not there'
  return (
    f'--config.data.roi={file} {what}; name a picture that is white inside of the region of '
    "interest ({category} in its path stands for the category), or alpha for each image's own "
    'alpha channel.'
  )


def _other(file: Path, same: bool, whose: str) -> str:
  remedy = 'name that one with --config.data.roi'
  if same:
    remedy = f'put that one back, or remove {file}: then what the model has kept of it counts'
  return (
    f'{file} is not the region of interest that {whose} trained with; {remedy}; or train with '
    'another --workdir.'
  )
