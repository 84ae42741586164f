"""Scores of normal images that a model has not learned from, and their statistics."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from memkd_jax.data.tiling import Tiling
from memkd_jax.scoring import normalization
from memkd_jax.scoring.anomaly_map import seen_positions
from memkd_jax.scoring.normalization import Statistics


class Scorer(Protocol):
  """What scores images; see `evaluate.Scorer`."""

  tiling: Tiling

  def __call__(
    self, params: Any, images: np.ndarray, statistics: Statistics | None = None
  ) -> tuple[np.ndarray, np.ndarray, Any]:
    """(maps [N, H, W], scores [N], anything)."""

  def stage_maps(self, params: Any, images: np.ndarray) -> Mapping[int, np.ndarray]:
    """{k: [N, H_k, W_k]}, not normalised."""


class Part(NamedTuple):
  """Images, and a model that has not learned from them.

  Attributes:
    params: gives what the model has learned, for as long as it is needed.
    images: normal images, uint8 [n, H, W, channels], at least one.
  """

  params: Callable[[], Any]
  images: np.ndarray


class HeldOut(NamedTuple):
  """What the model makes of normal images that it has not learned from.

  Attributes:
    maps: anomaly maps [n, H, W], in the order of the parts.
    scores: image scores [n], in the order of the parts.
    statistics: mean and spread by which maps of other images are normalised; None where they
      are not. Each of these images is normalised by those of the others.
  """

  maps: np.ndarray
  scores: np.ndarray
  statistics: Statistics | None


def score(scorer: Scorer, parts: Sequence[Part], normalize: str) -> HeldOut:
  """Scores all parts; mean and spread are those of all of them together.

  Args:
    scorer: the compiled pipeline that scores the images.
    parts: the images, each part with its model; at least one part.
    normalize: how maps are normalised, one of `normalization.NORMALIZATIONS`, as in the
      scorer's pipeline.
  """
  statistics: Statistics | None = None
  of_parts: list[tuple[Statistics, ...]] = [()] * len(parts)
  if normalize != 'none':
    raw = [_counting(scorer.stage_maps(part.params(), part.images), part) for part in parts]
    together = np.ma.concatenate if np.ma.isMaskedArray(raw[0][min(raw[0])]) else np.concatenate
    maps = {k: together([of_part[k] for of_part in raw]) for k in raw[0]}
    statistics = normalization.measure(maps, normalize)
    others = normalization.measure_others(maps, normalize)
    borders = np.cumsum([0, *(len(part.images) for part in parts)])
    of_parts = [
      (jax.tree.map(lambda x, rows=slice(low, high): x[rows], others),)
      for low, high in itertools.pairwise(borders)
    ]
  scored = [
    scorer(part.params(), part.images, *given)
    for part, given in zip(parts, of_parts, strict=True)
  ]
  maps_, scores = (np.concatenate([found[i] for found in scored]) for i in (0, 1))
  return HeldOut(maps_, scores, statistics)


def _counting(maps: Mapping[int, np.ndarray], part: Part) -> Mapping[int, np.ndarray]:
  """The maps, where not all of the canvases counts without what does not."""
  channels = part.images.shape[-1]
  if channels == 3:
    return maps
  found = {}
  for k, values in maps.items():
    # Of several pictures each has a map.
    layer = 3 if channels == 4 else 4 * k + 3
    seen = np.stack([image[..., layer] > 0 for image in part.images])
    mask = ~np.asarray(seen_positions(seen, values.shape[1:]))
    found[k] = np.ma.array(values, mask=mask)
  return found
