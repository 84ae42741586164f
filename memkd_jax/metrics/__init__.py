"""Exact anomaly-detection metrics in numpy; knows nothing of jax or of files.

Every distinct score is a threshold, ties are one step, counts are int64, sums
are float64 (protocol, metrics).
"""

from memkd_jax.metrics.pixels import PixelMetrics, PixelScores, evaluate_pixels
from memkd_jax.metrics.pro import aupro, pro_curve
from memkd_jax.metrics.scalars import auroc, average_precision, f1_max

__all__ = [
  'PixelMetrics',
  'PixelScores',
  'aupro',
  'auroc',
  'average_precision',
  'evaluate_pixels',
  'f1_max',
  'pro_curve',
]
