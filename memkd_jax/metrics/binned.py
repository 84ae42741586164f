"""Pixel metrics in constant memory: scores are counted in bins, with a proven error."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics import ranking
from memkd_jax.metrics.pixels import LOW_FPR, LOWEST_FPR, PixelMetrics, label_regions


@dataclasses.dataclass(frozen=True)
class BinnedPixelMetrics(PixelMetrics):
  """Pixel metrics with bounds on their distance to the exact ones.

  Attributes:
    auroc_error: the exact AUROC differs by no more than this.
    average_precision_error: the exact average precision differs by no more than this.
    aupro_error: the exact AUPRO differs by no more than this.
    f1_max_error: the exact highest F1 differs by no more than this; it is never lower.
  """

  auroc_error: float
  average_precision_error: float
  aupro_error: float
  f1_max_error: float


class BinnedPixelScores:
  """Counts the pixels of a test set image by image, of any mixture of sizes.

  The bins are the leading bits of the scores as float32, in their order, so
  nothing has to be known of the range: 2^16 bins keep 7 bits of the mantissa.
  Scores of one bin count as tied.

  >>> pixels = BinnedPixelScores(bins=2**16)
  >>> pixels.add([[1, 0, 0, 1]], [[0.9, 0.2, 0.5, 0.3]])
  >>> pixels.evaluate().auroc
  0.75

  Attributes:
    bins: number of bins, a power of two.
  """

  def __init__(self, bins: int = 2**16):
    """Raises ValueError unless `bins` is a power of two from 2^10 to 2^26."""
    if bins not in {2**bits for bits in range(10, 27)}:
      raise ValueError(f'bins must be a power of two from 2^10 to 2^26, not {bins}')
    self.bins = bins
    self._shift = 32 - (bins.bit_length() - 1)
    self._normal = np.zeros(bins, np.int64)
    self._anomalous = np.zeros(bins, np.int64)
    self._overlaps = np.zeros(bins)
    self._images = self._regions = 0

  def add(self, mask: ArrayLike, map_: ArrayLike) -> None:
    """Adds an image; arguments and errors are those of `PixelScores.add`."""
    anomalous, regions, sizes, normal = label_regions(mask, map_, self._images)
    self._normal += np.bincount(self._keys(normal), minlength=self.bins)
    if sizes.size:
      found = self._keys(anomalous)
      self._anomalous += np.bincount(found, minlength=self.bins)
      self._overlaps += np.bincount(found, 1.0 / sizes[regions], minlength=self.bins)
    self._regions += sizes.size
    self._images += 1

  def evaluate(self, fpr_limit: float = 0.3) -> BinnedPixelMetrics:
    """All figures of what was added, and the bounds of their errors.

    Args:
      fpr_limit: the false-positive rate at which the PRO curve ends, in (0, 1].

    Raises:
      ValueError: nothing was added, nothing is anomalous or nothing is normal.
    """
    if not self._images:
      raise ValueError('maps is empty')
    if not self._regions:
      raise ValueError('nothing is anomalous: the metric is undefined')
    used = np.flatnonzero(self._anomalous)[::-1]  # bins, from the highest
    positives, normal = self._anomalous[used], self._normal
    from_top = np.cumsum(normal[::-1])[::-1]
    ranked = ranking.Ranking(
      thresholds=self._lower_edges(used),
      true_positives=np.cumsum(positives),
      above=from_top[used] - normal[used],
      at_or_above=from_top[used],
      negatives=int(normal.sum()),
    )
    auroc = ranking.auroc_of(ranked)
    precision = ranking.average_precision_of(ranked)
    f1, threshold = ranking.f1_max_of(ranked)
    fpr, pro = ranking.pro_curve_of(ranked, np.cumsum(self._overlaps[used]))

    # Within a bin the order of the scores is unknown; each bound takes the worst.
    total, before = ranked.positives, ranked.true_positives - positives
    best = ranked.true_positives / (ranked.true_positives + ranked.above)
    worst = (before + 1) / (before + 1 + ranked.at_or_above)
    best_precision = np.sum(positives * best) / total
    worst_precision = np.sum(positives * worst) / total
    best_f1 = 2 * ranked.true_positives / (ranked.true_positives + ranked.above + total)
    # The true PRO curve runs somewhere in the rectangle of a bin's two corners.
    left, right = np.minimum(fpr[1:-1:2], fpr_limit), np.minimum(fpr[2:-1:2], fpr_limit)
    rise = pro[2:-1:2] - pro[1:-1:2]
    return BinnedPixelMetrics(
      auroc=auroc,
      average_precision=precision,
      aupro=ranking.area_up_to(fpr, pro, fpr_limit),
      aupro_low=ranking.area_up_to(fpr, pro, LOW_FPR),
      aupro_lowest=ranking.area_up_to(fpr, pro, LOWEST_FPR),
      f1_max=f1,
      threshold=threshold,
      auroc_error=float(np.sum(positives * normal[used]) / (2 * total * ranked.negatives)),
      average_precision_error=float(
        max(best_precision - precision, precision - worst_precision)
      ),
      aupro_error=float(np.sum((right - left) * rise) / fpr_limit),
      f1_max_error=float(best_f1.max() - f1),
    )

  def _keys(self, scores: np.ndarray) -> np.ndarray:
    """The bin of each score; a higher score is never in a lower bin."""
    # Adding zero makes one of the two zeros.
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> self._shift).astype(np.int64)

  def _lower_edges(self, bins: np.ndarray) -> np.ndarray:
    """The lowest float32 of each bin."""
    ordered = (bins << self._shift).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32(2**31 - 1), ~ordered)
    return bits.astype(np.uint32).view(np.float32)
