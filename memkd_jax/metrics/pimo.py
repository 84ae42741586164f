"""AUPIMO, per-image recall at very low false-positive rates (Bertoldo et al., 2024)."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics.ranking import check_scores


def aupimo(
  masks: Iterable[ArrayLike],
  maps: Iterable[ArrayLike],
  fpr_bounds: tuple[float, float] = (1e-5, 1e-4),
) -> tuple[float, np.ndarray]:
  """Area under the per-image overlap curve, on a logarithmic axis.

  The false-positive rate of a threshold is measured on the images without any
  anomaly only: the mean over them of their share of pixels at or above it. The
  recall of an anomalous image is the share of its anomalous pixels, whatever
  their region. The threshold of a rate is the lowest that does not exceed it;
  the integral over the resulting steps is exact.

  Args:
    masks: ground truth, [N, H, W] or N arrays [H_i, W_i]; any non-zero value is anomalous.
    maps: anomaly maps of the same shapes, real and finite.
    fpr_bounds: (low, high), the false-positive rates between which the area lies, 0 < low <
      high <= 1.

  Returns:
    (mean, scores): scores float64 [A] in [0, 1], one for each anomalous image in
    order, and their mean.

  Raises:
    ValueError: shapes differ, a value is not allowed, or there is no anomalous or
      no normal image.

  >>> normal, anomalous = np.array([[0.1, 0.5]]), np.array([[0.4, 0.9]])
  >>> mean, scores = aupimo([[[0, 0]], [[1, 1]]], [normal, anomalous], (0.1, 0.4))
  >>> scores.tolist()
  [0.5]
  """
  low, high = fpr_bounds
  if not 0 < low < high <= 1:
    raise ValueError(f'fpr_bounds must be 0 < low < high <= 1, not {fpr_bounds}')
  normal, anomalous = [], []
  for i, (mask, map_) in enumerate(zip(masks, maps, strict=True)):
    scores = check_scores(map_, f'maps[{i}]')
    mask = check_scores(mask, f'masks[{i}]') != 0
    if mask.shape != scores.shape:
      raise ValueError(f'masks[{i}] is {mask.shape} and maps[{i}] {scores.shape}')
    if mask.any():
      anomalous.append(np.sort(scores[mask]))
    else:
      normal.append(scores.ravel())
  if not normal or not anomalous:
    kind = 'normal' if not normal else 'anomalous'
    raise ValueError(f'no image is {kind}: the metric is undefined')

  steps, rates = _false_positive_steps(normal, high)
  # Between rates[k - 1] and rates[k] the threshold lies just above steps[k].
  edges = np.log(np.clip(np.concatenate([[0.0], rates, [1.0]]), low, high))
  widths = np.diff(edges) / (np.log(high) - np.log(low))
  scores = np.array([_recalls_above(steps, pixels) @ widths for pixels in anomalous])
  return float(scores.mean()), scores


def _false_positive_steps(
  normal: list[np.ndarray], high: float
) -> tuple[np.ndarray, np.ndarray]:
  """Distinct normal scores from the highest, with the rate at each, to beyond `high`."""
  tops, weights = [], []
  for pixels in normal:
    # No more pixels of one image than this can lie within the rate.
    number = min(int(high * len(normal) * pixels.size) + 1, pixels.size)
    tops.append(np.partition(pixels, pixels.size - number)[-number:])
    weights.append(np.full(number, 1 / (len(normal) * pixels.size)))
  top, weight = np.concatenate(tops), np.concatenate(weights)
  order = np.argsort(top)[::-1]
  top, rate = top[order], np.cumsum(weight[order])
  last_of_tie = np.append(top[1:] != top[:-1], True)
  return top[last_of_tie], rate[last_of_tie]


def _recalls_above(steps: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """Shares of the sorted pixels above each step, and all of them beyond the last."""
  above = pixels.size - np.searchsorted(pixels, steps, side='right')
  return np.append(above / pixels.size, 1.0)
