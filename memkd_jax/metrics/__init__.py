"""Exact anomaly-detection metrics in numpy; knows nothing of jax or of files.

Every distinct score is a threshold, ties are one step, counts are int64, sums
are float64 (protocol, metrics).
"""

from memkd_jax.metrics.binned import BinnedPixelMetrics, BinnedPixelScores
from memkd_jax.metrics.bootstrap import auroc_interval
from memkd_jax.metrics.one_pass import collect_pixels, evaluate_pixels
from memkd_jax.metrics.per_defect import per_defect
from memkd_jax.metrics.pimo import aupimo
from memkd_jax.metrics.pixels import PixelMetrics, PixelScores
from memkd_jax.metrics.pro import aupro, pro_curve
from memkd_jax.metrics.scalars import auroc, average_precision, f1_max
from memkd_jax.metrics.spro import SaturatedOverlaps

__all__ = [
  'BinnedPixelMetrics',
  'BinnedPixelScores',
  'PixelMetrics',
  'PixelScores',
  'SaturatedOverlaps',
  'aupimo',
  'aupro',
  'auroc',
  'auroc_interval',
  'average_precision',
  'collect_pixels',
  'evaluate_pixels',
  'f1_max',
  'per_defect',
  'pro_curve',
]
