"""How far an image AUROC can be trusted: a bootstrap confidence interval."""

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics.scalars import split_scores


def auroc_interval(
  labels: ArrayLike,
  scores: ArrayLike,
  confidence: float = 0.95,
  samples: int = 2000,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of the AUROC (Efron and Tibshirani, 1993).

  Normal and anomalous scores are drawn with replacement, each as often as there
  are of them. Made for image scores: memory grows with normal times anomalous.

  Args:
    labels: any shape; bool, or 0 for normal and 1 for anomalous.
    scores: scores of the same shape, real and finite.
    confidence: the share of bootstrap AUROCs inside, in (0, 1).
    samples: number of bootstrap samples.
    seed: seed by which the samples are drawn.

  Returns:
    (low, high), in [0, 1].

  Raises:
    ValueError: as `auroc`, or an argument is out of range.

  >>> auroc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
  (1.0, 1.0)
  """
  if not 0 < confidence < 1:
    raise ValueError(f'confidence must lie in (0, 1), not {confidence}')
  if samples < 1:
    raise ValueError(f'samples must be positive, not {samples}')
  normal, anomalous = split_scores(labels, scores)
  if not normal.size:
    raise ValueError('nothing is normal: the metric is undefined')
  higher = anomalous[:, None] > normal
  wins = higher + 0.5 * (anomalous[:, None] == normal)
  generator = np.random.default_rng(seed)

  def counts(number: int) -> np.ndarray:
    """How often each score is drawn: [samples, number]."""
    return generator.multinomial(number, np.full(number, 1 / number), samples)

  drawn = np.einsum('sn,sn->s', counts(anomalous.size) @ wins, counts(normal.size))
  aurocs = drawn / wins.size
  low, high = np.quantile(aurocs, [(1 - confidence) / 2, (1 + confidence) / 2])
  return float(low), float(high)
