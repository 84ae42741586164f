"""The four pixel metrics of a test set together, from one sort of its pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from memkd_jax.metrics import ranking
from memkd_jax.metrics.chunks import SortedChunks

# scipy's default would be 4-connected: two pixels that touch at a corner are
# one region.
EIGHT_CONNECTED = np.ones((3, 3), int)

# Of the PRO curve: beyond it a map of a large image is more false alarm than not.
LOW_FPR = 0.05
LOWEST_FPR = 0.01  # as of MVTec 3D-AD, whose defects are a few pixels


@dataclasses.dataclass(frozen=True)
class PixelMetrics:
  """P-AUC, P-AP, P-PRO, P-PRO5, P-PRO1 and P-F1max of a test set (protocol, metrics).

  Attributes:
    auroc: area under the ROC curve over all pixels, in [0, 1].
    average_precision: step sum over all pixels, in [0, 1].
    aupro: area under the per-region-overlap curve, in [0, 1].
    aupro_low: area under the per-region-overlap curve up to a false-positive rate of `LOW_FPR`,
      as of MVTec AD 2, in [0, 1].
    aupro_lowest: area under the per-region-overlap curve up to a false-positive rate of
      `LOWEST_FPR`, in [0, 1].
    f1_max: highest F1 over all pixels, in [0, 1].
    threshold: `map >= threshold` has this F1; unit of the maps.
  """

  auroc: float
  average_precision: float
  aupro: float
  aupro_low: float
  aupro_lowest: float
  f1_max: float
  threshold: float


class PixelScores:
  """Collects the pixels of a test set image by image, of any mixture of sizes.

  It keeps one copy of the scores; masks and maps can be forgotten after `add`.
  `evaluate` needs some 85 bytes for each anomalous pixel beside that.

  >>> pixels = PixelScores()
  >>> pixels.add([[1, 0, 0, 1]], [[0.9, 0.2, 0.5, 0.3]])
  >>> pixels.add([[0, 0]], [[0.1, 0.2]])
  >>> pixels.evaluate().auroc
  0.875
  """

  def __init__(self) -> None:
    self._normal = SortedChunks()
    self._anomalous: list[np.ndarray] = []
    self._regions: list[np.ndarray] = []  # of each anomalous pixel
    self._sizes: list[np.ndarray] = []  # of each region
    self._images = self._number_of_regions = 0

  def add(self, mask: ArrayLike, map_: ArrayLike) -> None:
    """Adds an image.

    Args:
      mask: ground truth, [H, W]; any non-zero value is anomalous. A masked array (`numpy.ma`)
        leaves out the pixels that it masks.
      map_: anomaly map [H, W], real and finite.

    Raises:
      ValueError: shapes differ or a value is not allowed; nothing was added.
    """
    anomalous, regions, sizes, normal = label_regions(mask, map_, self._images)
    if sizes.size:
      self._anomalous.append(anomalous)
      self._regions.append((regions + self._number_of_regions).astype(np.int32))
      self._sizes.append(sizes)
      self._number_of_regions += sizes.size
    self._normal.add(normal)
    self._images += 1

  def evaluate(self, fpr_limit: float = 0.3) -> PixelMetrics:
    """All figures of what was added.

    Args:
      fpr_limit: the false-positive rate at which the PRO curve ends, in (0, 1].

    Raises:
      ValueError: nothing is anomalous or nothing is normal.
    """
    ranked, overlaps = self._rank()
    # The curve is the largest of all; it is gone before the rest is computed.
    curve = ranking.pro_curve_of(ranked, overlaps)
    limits = (fpr_limit, LOW_FPR, LOWEST_FPR)
    aupro, aupro_low, aupro_lowest = (ranking.area_up_to(*curve, limit) for limit in limits)
    del curve, overlaps
    f1, threshold = ranking.f1_max_of(ranked)
    return PixelMetrics(
      auroc=ranking.auroc_of(ranked),
      average_precision=ranking.average_precision_of(ranked),
      aupro=aupro,
      aupro_low=aupro_low,
      aupro_lowest=aupro_lowest,
      f1_max=f1,
      threshold=threshold,
    )

  def f1_above(self, threshold: float) -> float:
    """F1 of calling pixels anomalous whose score is above a threshold: SegF1.

    Args:
      threshold: value of the maps, in their unit, chosen on other images.

    Raises:
      ValueError: nothing is anomalous.
    """
    positives = sum(scores.size for scores in self._anomalous)
    if not positives:
      raise ValueError('nothing is anomalous: the metric is undefined')
    hits = sum(int(np.sum(scores > threshold)) for scores in self._anomalous)
    normal = self._normal.sorted()
    alarms = sum(int(x.size - np.searchsorted(x, threshold, side='right')) for x in normal)
    return 2 * hits / (hits + alarms + positives)

  def pro_curve(self) -> tuple[np.ndarray, np.ndarray]:
    """See `pro.pro_curve`."""
    return ranking.pro_curve_of(*self._rank())

  def rank(self) -> ranking.Ranking:
    """The ranking of all pixels, from which `ranking` derives curves."""
    return self._rank()[0]

  def aupro_at(self, fpr_limits: Sequence[float] = (0.3, 0.05, 0.01)) -> dict[float, float]:
    """AUPRO at several limits, from the same curve.

    Args:
      fpr_limits: false-positive rates at which the PRO curve ends, each in (0, 1].

    Returns:
      {limit: AUPRO in [0, 1]}.
    """
    curve = self.pro_curve()
    return {limit: ranking.area_up_to(*curve, limit) for limit in fpr_limits}

  def _rank(self) -> tuple[ranking.Ranking, np.ndarray]:
    """The ranking of all pixels, and the overlap at each threshold, summed over the regions."""
    if not self._images:
      raise ValueError('maps is empty')
    if not self._anomalous:
      raise ValueError('nothing is anomalous: the metric is undefined')
    self._anomalous = [np.concatenate(self._anomalous)]
    self._regions = [np.concatenate(self._regions)]
    ranked, order = ranking.rank(self._anomalous[0], self._normal.sorted())
    overlaps = (1.0 / np.concatenate(self._sizes))[self._regions[0][order]]
    del order  # memory counts here
    return ranked, np.cumsum(overlaps, out=overlaps)[ranked.true_positives - 1]


def label_regions(
  mask: ArrayLike, map_: ArrayLike, i: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Checks an image and finds its regions, the 8-connected components of its mask.

  Args:
    mask: ground truth, [H, W]; any non-zero value is anomalous; what a masked array masks is
      left out.
    map_: anomaly map [H, W], real and finite.
    i: number of the image, for errors.

  Returns:
    (scores of the anomalous pixels [P], the region of each of them [P] from 0, number of
    pixels of each region [R], scores of the normal pixels [Q]).

  Raises:
    ValueError: shapes differ or a value is not allowed.
  """
  scores = ranking.check_scores(map_, f'maps[{i}]')
  counts: np.ndarray | None = None
  if isinstance(mask, np.ma.MaskedArray):
    mask, counts = mask.filled(0), ~np.ma.getmaskarray(mask)
  mask = ranking.check_scores(mask, f'masks[{i}]')
  if mask.ndim != 2 or mask.shape != scores.shape:
    raise ValueError(f'masks[{i}] is {mask.shape} and maps[{i}] {scores.shape}, not one [H, W]')
  anomalous = mask != 0
  normal = scores[~anomalous if counts is None else ~anomalous & counts]
  if not anomalous.any():
    return np.zeros(0, scores.dtype), np.zeros(0, int), np.zeros(0, int), normal
  labels, _ = ndimage.label(anomalous, EIGHT_CONNECTED)
  regions = labels[anomalous] - 1
  return scores[anomalous], regions, np.bincount(regions), normal
