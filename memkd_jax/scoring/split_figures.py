"""All figures of a test split: those of every data set, and those of some benchmarks alone."""

from typing import Any, NamedTuple

import numpy as np

from memkd_jax import metrics
from memkd_jax.data.framing import CROP
from memkd_jax.data.masks import decode_mask
from memkd_jax.data.sample import GOOD, Dataset
from memkd_jax.data.splits import Split
from memkd_jax.scoring.figures import (
  SEG_F1_3SD,
  compute_defined,
  object_auroc,
  over_kinds,
  saturated,
)
from memkd_jax.scoring.resolution import (
  has_layers,
  masks_and_maps,
  saturated_overlaps,
  three_sigma,
)
from memkd_jax.wording import counted


class SplitFigures(NamedTuple):
  """What is known of how well a test split was scored.

  Attributes:
    metrics: the figures by their names in the protocol, all in [0, 1].
    defects: {kind of defect: its figures against all normal images}.
    notes: sentences on what is left out.
    pixels: all pixels whose label is known; None where they are not of both classes.
  """

  metrics: dict[str, float]
  defects: dict[str, dict[str, float]]
  notes: list[str]
  pixels: metrics.PixelScores | None


def figures_of(
  name: str,
  test: Split,
  maps: np.ndarray,
  scores: np.ndarray,
  resolution: str,
  pixel_threshold: float | None = None,
  held_out: tuple[Split, np.ndarray] | None = None,
  benchmark: Dataset | None = None,
) -> SplitFigures:
  """Computes what the images define; what they do not is left out by name.

  Args:
    name: the task's name, for errors and notes.
    test: the decoded split, perhaps without any image.
    maps: anomaly maps of the split, floating [N, H, W].
    scores: floating [N], how abnormal each image is.
    resolution: 'model' or 'original', see `masks_and_maps`.
    pixel_threshold: see `figures.compute_metrics`.
    held_out: the data set's validation images, with their maps [n, H, W]; None where the model
      has not left them aside.
    benchmark: the data set, for the figures of some benchmarks alone; None for those of all.

  Raises:
    UserError: a score is not finite, or a mask is not one of the data set's.
  """
  pixels = _pixel_scores(test, maps, resolution)
  smallest = benchmark is not None and 'inputs' in benchmark.options
  basis = (name, test.labels, scores, pixels, pixel_threshold, smallest)
  figures, notes = compute_defined(*basis)
  kinds = _per_defect(test, maps, scores)
  if benchmark is not None and benchmark.object_of is not None:
    objects = list(map(benchmark.object_of, test.samples))
    figures |= object_auroc(objects, test.labels, scores)
  if benchmark is not None and benchmark.three_sigma and held_out is not None and pixels:
    figures[SEG_F1_3SD] = pixels.f1_above(three_sigma(*held_out, resolution))
  if has_layers(test.samples):
    notes += _add_saturated(name, kinds, test, maps, resolution)
    figures |= over_kinds(kinds)
  return SplitFigures(figures, kinds, notes + _unseen_defects(name, test), pixels)


def _pixel_scores(test: Split, maps: np.ndarray, resolution: str) -> metrics.PixelScores | None:
  """The pixels whose label is known; None where they are not of both classes."""
  if test.masks is None:
    return None
  known = np.flatnonzero(test.has_pixel_labels)
  pixels = metrics.PixelScores()
  found: set[bool] = set()
  for mask, map_ in masks_and_maps(test.take(known), maps[known], resolution):
    pixels.add(mask, map_)
    found |= set(np.unique(np.ma.compressed(mask)).tolist())
  return pixels if len(found) == 2 else None


def _add_saturated(
  name: str,
  kinds: dict[str, dict[str, float]],
  test: Split,
  maps: np.ndarray,
  resolution: str,
) -> list[str]:
  """Adds the saturated overlaps to the figures of each kind; a sentence where it cannot."""
  if resolution != 'original':
    return [
      f'{name}: no P-sPRO, which counts pixels of the original images; add '
      '--config.eval.resolution=original.'
    ]
  overlaps, why = saturated_overlaps(test, maps)
  if overlaps is None:
    return [f'{name}: no P-sPRO, for {why}.']
  for kind, areas in saturated(overlaps).items():
    kinds.setdefault(kind, {}).update(areas)
  return []


def _unseen_defects(name: str, test: Split) -> list[str]:
  """Says of how many anomalous images no part that is marked was looked at, if of any."""
  everything = test.framing.resize != CROP and test.framing.channels == 3
  if test.masks is None or everything:
    return []
  unseen = 0
  for i in np.flatnonzero(test.labels & test.has_pixel_labels).tolist():
    mask, seen = test.samples[i].mask, test.seen(i)
    if mask is None or (test.masks[i] if seen is None else test.masks[i] & seen).any():
      continue
    marked = decode_mask(mask)  # which may be too small for a canvas
    size = (marked.shape[1], marked.shape[0])
    _, shown = test.framing.to_image(np.zeros(test.masks[i].shape), size, seen=seen)
    unseen += shown is not None and not (marked & shown).any()
  if not unseen:
    return []
  images = counted(unseen, 'anomalous image')
  they = 'it counts' if unseen == 1 else 'they count'
  return [
    f'{name}: of {images} nothing that is marked was looked at (data.resize, data.roi); {they} '
    'as anomalous all the same.'
  ]


def _per_defect(
  test: Split, maps: np.ndarray, scores: np.ndarray
) -> dict[str, dict[str, float]]:
  """Each kind's figures; of pixels only where all labels are known, at the model's size."""
  if len(np.unique(test.labels)) < 2:
    return {}
  kinds = [sample.defect for sample in test.samples]
  marked = test.masks is not None and bool(test.has_pixel_labels.all())
  pixels: tuple[Any, ...] = ()
  if marked:
    masks = [mask for mask, _ in masks_and_maps(test, maps, 'model')]
    found = {kind for kind, mask in zip(kinds, masks, strict=True) if mask.any()}
    pixels = (masks, maps) if found >= set(kinds) - {GOOD} else ()
  return metrics.per_defect(kinds, scores, *pixels)
