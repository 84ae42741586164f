"""Per-region overlap (Bergmann et al., IJCV 2021), exact over the whole test set."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics.one_pass import collect_pixels
from memkd_jax.metrics.ranking import area_up_to


def pro_curve(
  masks: Iterable[ArrayLike], maps: Iterable[ArrayLike]
) -> tuple[np.ndarray, np.ndarray]:
  """The mean overlap of the regions against the false-positive rate.

  Regions are the 8-connected components of each mask. Every distinct score is
  a threshold. The rate counts the normal pixels of all images.

  Args:
    masks: ground truth, [N, H, W] or N arrays [H_i, W_i]; any non-zero value is anomalous.
    maps: anomaly maps of the same shapes, real and finite.

  Returns:
    (fpr [K], pro [K]) float64, both non-decreasing from (0, 0) to (1, 1): the
    corners of the curve. Thresholds between two anomalous scores, where it runs
    level, are left out.

  Raises:
    ValueError: the numbers or shapes differ, a value is not allowed, or there is
      no anomalous or no normal pixel.

  >>> fpr, pro = pro_curve([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]])
  >>> fpr.tolist()
  [0.0, 0.0, 0.0, 0.5, 0.5, 1.0]
  >>> pro.tolist()
  [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
  """
  return collect_pixels(masks, maps).pro_curve()


def aupro(
  masks: Iterable[ArrayLike], maps: Iterable[ArrayLike], fpr_limit: float = 0.3
) -> float:
  """Area under the PRO curve from FPR 0 to `fpr_limit`, divided by the limit.

  Args:
    masks: ground truth, [N, H, W] or N arrays [H_i, W_i]; any non-zero value is anomalous.
    maps: anomaly maps of the same shapes, real and finite.
    fpr_limit: the false-positive rate at which the curve ends, in (0, 1]; it is interpolated
      linearly there.

  Returns:
    In [0, 1].

  Raises:
    ValueError: as `pro_curve`, or the limit is out of range.

  >>> aupro([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]], fpr_limit=0.5)
  0.5
  """
  return area_up_to(*pro_curve(masks, maps), fpr_limit)
