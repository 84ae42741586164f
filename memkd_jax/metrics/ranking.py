"""What all metrics are made of: how normal scores stand between the anomalous ones.

A metric changes its value only where an anomalous score is passed; the normal
scores matter by their number above each anomalous one. So the many normal
scores are sorted without their labels, which numpy does ten times faster than
with them, and in chunks of any number.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Counts at each distinct anomalous score, from the highest to the lowest.

  Attributes:
    thresholds: [T] the distinct anomalous scores, strictly decreasing.
    true_positives: int64 [T], anomalous scores at or above the threshold.
    above: int64 [T], normal scores above the threshold.
    at_or_above: int64 [T], normal scores at or above it.
    negatives: number of normal scores.
  """

  thresholds: np.ndarray
  true_positives: np.ndarray
  above: np.ndarray
  at_or_above: np.ndarray
  negatives: int

  @property
  def positives(self) -> int:
    """Number of anomalous scores."""
    return int(self.true_positives[-1])


def rank(
  anomalous: np.ndarray, sorted_normal: Sequence[np.ndarray]
) -> tuple[Ranking, np.ndarray]:
  """Ranks anomalous scores among normal ones.

  Args:
    anomalous: scores of what is anomalous, [P], at least one.
    sorted_normal: chunks of the scores of what is normal, [N_i], each sorted upwards.

  Returns:
    The ranking, and the order int64 [P] that sorts `anomalous` downwards.
  """
  order = np.argsort(anomalous)[::-1]
  descending = anomalous[order]
  last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
  thresholds = descending[last]
  queries = thresholds[::-1]  # upwards, so that the look-ups stay in the cache
  above = np.zeros(len(thresholds), np.int64)
  at_or_above = np.zeros(len(thresholds), np.int64)
  for chunk in sorted_normal:
    above += (len(chunk) - np.searchsorted(chunk, queries, side='right'))[::-1]
    at_or_above += (len(chunk) - np.searchsorted(chunk, queries, side='left'))[::-1]
  negatives = sum(len(chunk) for chunk in sorted_normal)
  return Ranking(thresholds, last + 1, above, at_or_above, negatives), order


def auroc_of(ranking: Ranking) -> float:
  """See `scalars.auroc`.

  Raises:
    ValueError: nothing is normal.
  """
  if not ranking.negatives:
    raise ValueError('nothing is normal: the metric is undefined')
  # Twice the Mann-Whitney U: normal scores below count 2, equal ones 1.
  twice = 2 * ranking.negatives - ranking.at_or_above - ranking.above
  new = np.diff(ranking.true_positives, prepend=0)
  return int(np.sum(new * twice)) / (2 * ranking.positives * ranking.negatives)


def average_precision_of(ranking: Ranking) -> float:
  """See `scalars.average_precision`."""
  _, precision = precision_recall_of(ranking)
  new = np.diff(ranking.true_positives, prepend=0)
  return float(np.sum(new * precision) / ranking.positives)


def f1_max_of(ranking: Ranking) -> tuple[float, float]:
  """See `scalars.f1_max`."""
  flagged = ranking.true_positives + ranking.at_or_above
  f1 = 2 * ranking.true_positives / (flagged + ranking.positives)
  best = int(np.argmax(f1))
  return float(f1[best]), float(ranking.thresholds[best])


def pro_curve_of(ranking: Ranking, overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The corner points of the PRO curve, see `pro.pro_curve`.

  Args:
    ranking: the ranking of all pixels.
    overlaps: [T], the overlap at each threshold, summed over the regions.

  Returns:
    (fpr [K], pro [K]) float64.

  Raises:
    ValueError: nothing is normal.
  """
  if not ranking.negatives:
    raise ValueError('nothing is normal: the metric is undefined')
  # The last is the number of regions; dividing by it makes the end exactly 1,
  # whatever the rounding of the sum.
  after = overlaps / overlaps[-1]
  # Between two anomalous scores the curve runs level; at one it rises, aslant
  # where normal pixels are tied with it.
  number = len(after)
  fpr, pro = np.zeros(2 * number + 2), np.zeros(2 * number + 2)
  fpr[1:-1:2] = ranking.above
  fpr[2:-1:2] = ranking.at_or_above
  fpr[-1] = ranking.negatives
  fpr /= ranking.negatives
  pro[3:-1:2] = after[:-1]
  pro[2:-1:2] = after
  pro[-1] = 1.0
  return fpr, pro


def roc_curve_of(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
  """The corner points of the ROC curve: (fpr [K], tpr [K]) float64 from (0, 0) to (1, 1).

  Raises:
    ValueError: nothing is normal.
  """
  # Every anomalous score is a region of its own.
  return pro_curve_of(ranking, ranking.true_positives)


def precision_recall_of(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
  """(recall [T], precision [T]) float64 at each distinct anomalous score, highest first."""
  precision = ranking.true_positives / (ranking.true_positives + ranking.at_or_above)
  return ranking.true_positives / ranking.positives, precision


def area_up_to(fpr: np.ndarray, pro: np.ndarray, fpr_limit: float) -> float:
  """The area under a curve from 0 to `fpr_limit`, divided by the limit.

  Args:
    fpr: false-positive rates [K], not decreasing, from 0 to 1.
    pro: values of the curve at these rates, [K].
    fpr_limit: the false-positive rate at which the curve ends, in (0, 1]; it is interpolated
      linearly there.

  Raises:
    ValueError: the limit is out of range.
  """
  if not 0 < fpr_limit <= 1:
    raise ValueError(f'fpr_limit must lie in (0, 1], not {fpr_limit}')
  inside = int(np.searchsorted(fpr, fpr_limit, side='right'))
  fpr_inside, pro_inside = fpr[:inside], pro[:inside]
  widths = np.diff(fpr_inside)
  area = (widths @ pro_inside[1:] + widths @ pro_inside[:-1]) / 2
  at_limit = np.interp(fpr_limit, fpr, pro)
  area += (fpr_limit - fpr_inside[-1]) * (pro_inside[-1] + at_limit) / 2
  return float(area / fpr_limit)


def check_scores(scores: ArrayLike, name: str) -> np.ndarray:
  """Returns scores as a non-empty array of finite numbers, or raises ValueError."""
  scores = np.asarray(scores)
  if scores.dtype.kind not in 'buif':
    raise ValueError(f'{name} must be real numbers, not {scores.dtype}')
  if not scores.size:
    raise ValueError(f'{name} is empty')
  if not np.isfinite(scores).all():
    raise ValueError(f'{name} holds NaN or infinite values')
  return scores
