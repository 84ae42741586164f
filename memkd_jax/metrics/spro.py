"""Saturated per-region overlap (Bergmann et al., IJCV 2022), exact over the whole test set."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics import ranking
from memkd_jax.metrics.chunks import SortedChunks


class SaturatedOverlaps:
  """Collects maps image by image, with the regions in them that are to be found.

  Of a region with the saturation area s it is enough to find s of its pixels: its overlap is
  min(found / s, 1). Regions may overlap each other. The false-positive rate counts the pixels
  that are in no region of their image, of all images.

  >>> overlaps = SaturatedOverlaps()
  >>> overlaps.add([[0.9, 0.2, 0.5, 0.3]], [[[1, 0, 0, 1]]], [1])
  >>> overlaps.area([0.5])
  {0.5: 1.0}
  """

  def __init__(self) -> None:
    self._normal: dict[str, SortedChunks] = {}
    self._anomalous: dict[str, list[np.ndarray]] = {}
    self._weights: dict[str, list[np.ndarray]] = {}

  def add(
    self,
    map_: ArrayLike,
    regions: Sequence[ArrayLike] = (),
    saturations: Sequence[int] = (),
    kind: str = '',
  ) -> None:
    """Adds an image.

    Args:
      map_: anomaly map [H, W], real and finite.
      regions: R masks [H, W], of one region each; none for a normal image.
      saturations: [R], the number of pixels of each region that suffice, from 1 to all of them.
      kind: name of the anomalies' kind, for `area`; '' for a normal image.

    Raises:
      ValueError: shapes or numbers differ or a value is not allowed; nothing was added.
    """
    scores = ranking.check_scores(map_, 'the map')
    masks = [np.asarray(region) != 0 for region in regions]
    for mask in masks:
      if mask.shape != scores.shape or mask.ndim != 2:
        raise ValueError(f'a region is {mask.shape} and its map {scores.shape}, not one [H, W]')
    anomalous, weights = [], []
    for mask, saturation in zip(masks, saturations, strict=True):
      found = np.sort(scores[mask])[::-1]
      if not 1 <= saturation <= found.size:
        raise ValueError(f'a region of {found.size} pixels cannot be saturated by {saturation}')
      anomalous.append(found)
      # Whatever is found after the first ones adds nothing. That holds with ties too: a
      # threshold passes all pixels of one score, and so many of them count as are missing.
      weights.append(np.where(np.arange(found.size) < saturation, 1 / saturation, 0.0))
    outside = ~np.any(masks, axis=0) if masks else np.ones(scores.shape, bool)
    self._normal.setdefault(kind, SortedChunks()).add(scores[outside])
    self._anomalous.setdefault(kind, []).extend(anomalous)
    self._weights.setdefault(kind, []).extend(weights)

  @property
  def kinds(self) -> list[str]:
    """The kinds of anomalies of which there are regions, sorted."""
    return sorted(kind for kind, found in self._anomalous.items() if found)

  def curve(self, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The mean overlap of the regions against the false-positive rate.

    Args:
      kind: name of the kind of anomalies whose images count along with the normal ones, as
        LOCO's publisher has it; None for all images.

    Returns:
      (fpr [K], spro [K]) float64, see `pro.pro_curve`.

    Raises:
      ValueError: there is no region, or no pixel outside of them.
    """
    kinds = list(self._normal) if kind is None else list(dict.fromkeys(['', kind]))
    anomalous = [scores for key in kinds for scores in self._anomalous.get(key, ())]
    if not anomalous:
      raise ValueError('nothing is anomalous: the metric is undefined')
    weights = [w for key in kinds for w in self._weights.get(key, ())]
    normal = [
      chunk for key in kinds if key in self._normal for chunk in self._normal[key].sorted()
    ]
    ranked, order = ranking.rank(np.concatenate(anomalous), normal)
    overlaps = np.cumsum(np.concatenate(weights)[order])
    return ranking.pro_curve_of(ranked, overlaps[ranked.true_positives - 1])

  def area(
    self, fpr_limits: Iterable[float] = (0.3, 0.05), kind: str | None = None
  ) -> dict[float, float]:
    """The area under the curve from FPR 0 to each limit, divided by the limit.

    Args:
      fpr_limits: false-positive rates at which the curve ends, each in (0, 1].
      kind: see `curve`.

    Returns:
      {limit: AU-sPRO in [0, 1]}.

    Raises:
      ValueError: as `curve`, or a limit is out of range.
    """
    curve = self.curve(kind)
    return {limit: ranking.area_up_to(*curve, limit) for limit in fpr_limits}
