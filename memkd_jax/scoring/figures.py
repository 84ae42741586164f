"""The figures of the evaluation protocol, by the names that tables and files use."""

import numpy as np

from memkd_jax import metrics
from memkd_jax.errors import UserError

METRICS = ('I-AUC', 'I-AP', 'I-F1max', 'P-AUC', 'P-AP', 'P-PRO', 'P-F1max')


def compute_metrics(
  category: str,
  labels: np.ndarray,
  scores: np.ndarray,
  pixels: metrics.PixelScores | None,
) -> dict[str, float]:
  """The protocol's figures of one category.

  Args:
    category: named in errors.
    labels: [N], 1 for anomalous.
    scores: image scores [N].
    pixels: all pixels of the test set, or None where there are no masks.

  Raises:
    UserError: a metric is undefined, naming the category and what is missing.
  """
  try:
    figures = {
      'I-AUC': metrics.auroc(labels, scores),
      'I-AP': metrics.average_precision(labels, scores),
      'I-F1max': metrics.f1_max(labels, scores)[0],
    }
    if pixels is not None:
      record = pixels.evaluate()
      figures |= {
        'P-AUC': record.auroc,
        'P-AP': record.average_precision,
        'P-PRO': record.aupro,
        'P-F1max': record.f1_max,
      }
  except ValueError as error:
    raise UserError(f'{category} cannot be scored: {error}.') from error
  return figures
