"""Per-region overlap (Bergmann et al., IJCV 2021), exact over the whole test set."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from memkd_jax.metrics.ranking import check_scores

# scipy's default would be 4-connected: two pixels that touch at a corner are
# one region.
_EIGHT_CONNECTED = np.ones((3, 3), int)


def pro_curve(
  masks: Sequence[np.ndarray] | np.ndarray, maps: Sequence[np.ndarray] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The mean overlap of the regions against the false-positive rate.

  Regions are the 8-connected components of each mask. Every distinct score is
  a threshold. The rate counts the normal pixels of all images.

  Args:
    masks: [N, H, W] or N arrays [H_i, W_i]; any non-zero value is anomalous.
    maps: anomaly maps of the same shapes, real and finite.

  Returns:
    (fpr [T + 1], pro [T + 1]) float64, both non-decreasing from (0, 0) to (1, 1).

  Raises:
    ValueError: shapes differ, a value is not allowed, or there is no anomalous
      or no normal pixel.

  >>> fpr, pro = pro_curve([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]])
  >>> fpr.tolist(), pro.tolist()
  ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
  """
  scores, overlaps, regions = _pixels(masks, maps)
  normal = overlaps == 0
  negatives = int(np.count_nonzero(normal))
  if not regions:
    raise ValueError('masks has nothing anomalous: the metric is undefined')
  if not negatives:
    raise ValueError('masks has nothing normal: the metric is undefined')
  order = np.argsort(scores)[::-1]
  scores, overlaps, normal = scores[order], overlaps[order], normal[order]
  last_of_tie = np.append(scores[1:] != scores[:-1], True)
  fpr = np.cumsum(normal, dtype=np.int64)[last_of_tie] / negatives
  pro = np.cumsum(overlaps)[last_of_tie] / regions
  pro /= pro[-1]  # exactly 1 at the end, whatever the rounding of the sum
  return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], pro])


def aupro(
  masks: Sequence[np.ndarray] | np.ndarray,
  maps: Sequence[np.ndarray] | np.ndarray,
  fpr_limit: float = 0.3,
) -> float:
  """Area under the PRO curve from FPR 0 to `fpr_limit`, divided by the limit.

  Args:
    masks: [N, H, W] or N arrays [H_i, W_i]; any non-zero value is anomalous.
    maps: anomaly maps of the same shapes, real and finite.
    fpr_limit: in (0, 1]; the curve is interpolated linearly at it.

  Returns:
    In [0, 1].

  Raises:
    ValueError: as `pro_curve`, or the limit is out of range.

  >>> aupro([[[1, 0, 0, 1]]], [[[0.9, 0.2, 0.5, 0.3]]], fpr_limit=0.5)
  0.5
  """
  if not 0 < fpr_limit <= 1:
    raise ValueError(f'fpr_limit must lie in (0, 1], not {fpr_limit}')
  fpr, pro = pro_curve(masks, maps)
  inside = int(np.searchsorted(fpr, fpr_limit, side='right'))
  x = np.append(fpr[:inside], fpr_limit)
  y = np.append(pro[:inside], np.interp(fpr_limit, fpr, pro))
  return float(np.trapezoid(y, x) / fpr_limit)


def _pixels(
  masks: Sequence[np.ndarray] | np.ndarray, maps: Sequence[np.ndarray] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
  """(scores, 1 / size of the pixel's region or 0 where normal, number of regions)."""
  if len(masks) != len(maps):
    raise ValueError(f'masks has {len(masks)} images, maps has {len(maps)}')
  if not len(maps):
    raise ValueError('maps is empty')
  scores, overlaps, regions = [], [], 0
  for i, (mask, map_) in enumerate(zip(masks, maps, strict=True)):
    mask, map_ = np.asarray(mask), check_scores(map_, f'maps[{i}]')
    if mask.ndim != 2 or mask.shape != map_.shape:
      raise ValueError(f'masks[{i}] is {mask.shape} and maps[{i}] {map_.shape}, not one [H, W]')
    labelled, number = ndimage.label(mask != 0, _EIGHT_CONNECTED)
    share = 1.0 / np.bincount(labelled.ravel(), minlength=number + 1).clip(1)
    share[0] = 0.0
    scores.append(map_.ravel())
    overlaps.append(share[labelled.ravel()])
    regions += number
  return np.concatenate(scores), np.concatenate(overlaps), regions
