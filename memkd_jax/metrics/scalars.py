"""AUROC, average precision and F1-max of scores against binary labels."""

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics.ranking import (
  Ranking,
  auroc_of,
  average_precision_of,
  check_scores,
  f1_max_of,
  rank,
)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
  """Area under the ROC curve: the Mann-Whitney U statistic, ties counted one half.

  Source: Hanley and McNeil, Radiology 1982.

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
  return auroc_of(rank_scores(labels, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
  """Average precision: sum over thresholds of (R_n - R_{n-1}) P_n, not the trapezoid.

  Source: protocol, metrics; the definition of scikit-learn.

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
  return average_precision_of(rank_scores(labels, scores))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
  """The highest F1 over all thresholds, and the highest threshold that reaches it.

  Source: protocol, metrics.

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
  return f1_max_of(rank_scores(labels, scores))


def rank_scores(labels: ArrayLike, scores: ArrayLike) -> Ranking:
  """Ranks scores by their labels; arguments and errors are those of `average_precision`."""
  normal, anomalous = split_scores(labels, scores)
  return rank(anomalous, [np.sort(normal)])[0]


def split_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """(normal [N], anomalous [A]) scores; arguments and errors as `average_precision`."""
  scores, labels = check_scores(scores, 'scores'), _check_labels(labels)
  if labels.shape != scores.shape:
    raise ValueError(f'labels has shape {labels.shape}, scores has {scores.shape}')
  anomalous = scores[labels]
  if not anomalous.size:
    raise ValueError('nothing is anomalous: the metric is undefined')
  return scores[~labels], anomalous


def _check_labels(labels: ArrayLike) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.dtype == bool:
    return labels
  if labels.dtype.kind not in 'uif' or not ((labels == 0) | (labels == 1)).all():
    raise ValueError('labels must be bool, or 0 (normal) and 1 (anomalous)')
  return labels == 1
