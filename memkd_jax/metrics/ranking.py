"""AUROC, average precision and F1-max of scores against binary labels."""

import numpy as np
from numpy.typing import ArrayLike


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
  """Area under the ROC curve: the Mann-Whitney U statistic, ties counted one half.

  Args:
    labels: any shape; bool, or 0 for normal and 1 for anomalous.
    scores: same shape, real and finite; higher means more anomalous.

  Returns:
    In [0, 1]; 0.5 for a constant detector.

  Raises:
    ValueError: shapes differ, a value is not allowed, or a class is missing.

  >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
  0.875
  """
  true_positives, false_positives, _ = cumulative_counts(labels, scores)
  positives, negatives = _totals(true_positives, false_positives, need_negatives=True)
  # The trapezoid over the curve from (0, 0), twice its area in whole counts.
  heights = true_positives + np.concatenate([[0], true_positives[:-1]])
  widths = np.diff(false_positives, prepend=0)
  return int(np.sum(heights * widths)) / (2 * positives * negatives)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
  """Average precision: sum over thresholds of (R_n - R_{n-1}) P_n, not the trapezoid.

  Args:
    labels: any shape; bool, or 0 for normal and 1 for anomalous.
    scores: same shape, real and finite; higher means more anomalous.

  Returns:
    In [0, 1]; the prevalence for a constant detector.

  Raises:
    ValueError: shapes differ, a value is not allowed, or nothing is anomalous.

  >>> average_precision([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.2])
  0.6666666666666666
  """
  true_positives, false_positives, _ = cumulative_counts(labels, scores)
  positives, _ = _totals(true_positives, false_positives)
  precision = true_positives / (true_positives + false_positives)
  return float(np.sum(np.diff(true_positives, prepend=0) * precision) / positives)


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
  """The highest F1 over all thresholds, and the highest threshold that reaches it.

  Args:
    labels: any shape; bool, or 0 for normal and 1 for anomalous.
    scores: same shape, real and finite; higher means more anomalous.

  Returns:
    (f1, threshold): `scores >= threshold` has this F1.

  Raises:
    ValueError: shapes differ, a value is not allowed, or nothing is anomalous.

  >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
  (0.8, 0.3)
  """
  true_positives, false_positives, thresholds = cumulative_counts(labels, scores)
  positives, _ = _totals(true_positives, false_positives)
  f1 = 2 * true_positives / (true_positives + false_positives + positives)
  best = int(np.argmax(f1))
  return float(f1[best]), float(thresholds[best])


def cumulative_counts(
  labels: ArrayLike, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Counts of anomalous and of normal scores at or above each distinct score.

  Args:
    labels: any shape; bool, or 0 and 1.
    scores: same shape, real and finite.

  Returns:
    (true_positives int64 [T], false_positives int64 [T], thresholds [T]), the
    thresholds strictly decreasing.

  Raises:
    ValueError: shapes differ or a value is not allowed.
  """
  scores, labels = check_scores(scores, 'scores'), _check_labels(labels)
  if labels.shape != scores.shape:
    raise ValueError(f'labels has shape {labels.shape}, scores has {scores.shape}')
  scores, labels = scores.ravel(), labels.ravel()
  order = np.argsort(scores)[::-1]
  scores, labels = scores[order], labels[order]
  last_of_tie = np.append(scores[1:] != scores[:-1], True)
  true_positives = np.cumsum(labels, dtype=np.int64)[last_of_tie]
  return true_positives, np.flatnonzero(last_of_tie) + 1 - true_positives, scores[last_of_tie]


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


def _check_labels(labels: ArrayLike) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
    raise ValueError('labels must be bool, or 0 (normal) and 1 (anomalous)')
  return labels.astype(bool)


def _totals(
  true_positives: np.ndarray, false_positives: np.ndarray, need_negatives: bool = False
) -> tuple[int, int]:
  positives, negatives = int(true_positives[-1]), int(false_positives[-1])
  if not positives:
    raise ValueError('labels has nothing anomalous: the metric is undefined')
  if need_negatives and not negatives:
    raise ValueError('labels has nothing normal: the metric is undefined')
  return positives, negatives
