"""Maps in units of what is usual: how far from the mean of normal images, in spreads.

A stage whose distances are large everywhere drowns the others in their sum, and an edge where
every normal image has some distance looks like a defect. Mean and spread of normal images that
the model has not learned from tell what is usual: of a whole stage, or of each position of it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from memkd_jax.errors import UserError

NORMALIZATIONS = ('none', 'stage', 'position')
# By stage {'mean', 'spread'}, [1 or B, H, W] or [1 or B, 1, 1].
Statistics = dict[str, dict[str, Any]]

# A position where all normal images are alike would make a mountain of a grain: its spread is
# taken for this share of the stage's at least.
_LEAST_SHARE = 0.1
_FEWEST = 3  # of which each can be measured by the spread of the others


def measure(maps: Mapping[int, np.ndarray], kind: str) -> Statistics:
  """Mean and spread of normal images.

  Args:
    maps: maps of the stages, {k: [n, H_k, W_k]}, of images that were not learned from; masked
      arrays leave out the positions that they mask.
    kind: 'stage' for one mean and one spread of each stage, 'position' for those of each of
      its positions.

  Returns:
    {'stage<k>': {'mean', 'spread'}}, float32 [1, 1, 1] or [1, H_k, W_k]. A spread is a
    standard deviation; of a position at least a tenth of the root mean square of those of its
    stage; and 1 where a stage has none.
  """
  found: Statistics = {}
  for k, values in maps.items():
    x, pooled = values.astype(np.float64), _pooled(kind)
    mean = x.mean(axis=(0, *pooled), keepdims=True)
    found[f'stage{k}'] = _statistics(mean, x.var(axis=(0, *pooled), keepdims=True))
  return found


def measure_others(maps: Mapping[int, np.ndarray], kind: str) -> Statistics:
  """For each image what `measure` gives of the others.

  By its own share in mean and spread an image would look more usual than a new one does, the
  more so the fewer images there are, and a threshold made of such scores would be too low.

  Args:
    maps: see `measure`.
    kind: see `measure`.

  Returns:
    As `measure`, with n in the place of 1.
  """
  found: Statistics = {}
  for k, values in maps.items():
    x, pooled = values.astype(np.float64), _pooled(kind)
    mean = x.mean(axis=(0, *pooled), keepdims=True)
    deviations = x - mean  # sums of squares around zero would lose digits
    sums = deviations.sum(axis=pooled, keepdims=True)
    squares = (deviations**2).sum(axis=pooled, keepdims=True)
    numbers = np.ma.count(x, axis=pooled, keepdims=True) if pooled else ~np.ma.getmaskarray(x)
    others = np.maximum(numbers.sum(axis=0) - numbers, 1)
    shift = -sums / others
    variance = (squares.sum(axis=0) - squares) / others - shift**2
    found[f'stage{k}'] = _statistics(mean + shift, np.maximum(variance, 0))
  return found


def normalize(maps: Mapping[int, jax.Array], statistics: Statistics) -> dict[int, jax.Array]:
  """(map - mean) / spread of each stage.

  Args:
    maps: maps of the stages, {k: [B, H_k, W_k]}.
    statistics: what `measure` gave, or of as many images `measure_others`.
  """
  normalized = {}
  for k, values in maps.items():
    usual = statistics[f'stage{k}']
    normalized[k] = (values - usual['mean']) / usual['spread']
  return normalized


def check_number(name: str, kind: str, number: int) -> None:
  """Raises UserError where too few images are held out for `measure_others`.

  Args:
    name: the task's name, for the error.
    kind: how maps are normalised, one of `NORMALIZATIONS`.
    number: number of normal images that are not learned from.
  """
  if kind == 'none' or number >= _FEWEST:
    return
  raise UserError(
    f'--config.anomaly_map.normalize={kind}: mean and spread are those of normal images that '
    f'are not learned from, and {name} has {number} of them where {_FEWEST} are needed; hold '
    'some out with --config.train.holdout=0.1, or let all be scored by further models with '
    f'--config.train.calibration=folds; with fewer than {_FEWEST} images in all, train with '
    '--config=folder, which normalises no maps.'
  )


def _pooled(kind: str) -> tuple[int, ...]:
  """The axes of a map over which it has one mean."""
  return (1, 2) if kind == 'stage' else ()


def _statistics(mean: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
  # Where nothing of any image counts there is neither.
  mean, variance = np.ma.filled(mean, 0), np.ma.masked_array(variance)
  typical = np.sqrt(variance.mean(axis=(1, 2), keepdims=True))
  variance, typical = np.ma.filled(variance, 0), np.ma.filled(typical, 0)
  spread = np.maximum(np.sqrt(variance), _LEAST_SHARE * typical)
  return {
    'mean': mean.astype(np.float32),
    'spread': np.where(spread > 0, spread, 1.0).astype(np.float32),
  }
