"""At which size maps are scored, and maps as files for other people's scoring."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax import metrics
from memkd_jax.data.masks import decode_mask, decode_regions
from memkd_jax.data.sample import LayeredMask, Sample
from memkd_jax.data.splits import Split
from memkd_jax.files import atomic
from memkd_jax.scoring.spread import Spread

# Masks resized to the maps, as RD's code does, or maps resized to untouched masks.
RESOLUTIONS = ('model', 'original')


def masks_and_maps(
  test: Split, maps: np.ndarray, resolution: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The pairs whose pixels are scored.

  Args:
    test: the decoded split, with masks.
    maps: anomaly maps of the split, floating [N, H, W].
    resolution: the size at which pixels are scored, one of `RESOLUTIONS`.

  Yields:
    (bool [H, W], map [H, W]) of each image: of the split's size S, or of the
    original image's. Where not all of an image counts the first is a masked array, which masks
    what does not.
  """
  assert test.masks is not None
  for i, sample in enumerate(test.samples):
    if resolution == 'model':
      yield _known(test.masks[i], test.seen(i)), maps[i]
      continue
    map_, seen = _at_original(test, maps, i)
    mask = np.zeros(map_.shape, bool) if sample.mask is None else decode_mask(sample.mask)
    yield _known(mask, seen), map_


def saturated_overlaps(
  test: Split, maps: np.ndarray
) -> tuple[metrics.SaturatedOverlaps | None, str]:
  """The defects of a test set one by one, at the size of its images, for sPRO.

  Args:
    test: the decoded split, whose anomalous images have masks with layers.
    maps: anomaly maps of the split, floating [N, H, W].

  Returns:
    The collected maps and defects, or None; and why, where parts of images do not count.

  Raises:
    UserError: a mask cannot be read, or is not one of the data set's.
  """
  overlaps = metrics.SaturatedOverlaps()
  for i, sample in enumerate(test.samples):
    map_, seen = _at_original(test, maps, i)
    if seen is not None and not seen.all():
      return None, 'parts of images do not count'
    add_saturated(overlaps, sample, map_)
  return overlaps, ''


def add_saturated(
  overlaps: metrics.SaturatedOverlaps, sample: Sample, map_: np.ndarray
) -> None:
  """Adds the map of an image at its size, with the defects that its mask tells apart."""
  regions: list[tuple[np.ndarray, int]] = []
  if isinstance(sample.mask, LayeredMask):
    regions = decode_regions(sample.mask)
  found, areas = [region for region, _ in regions], [area for _, area in regions]
  overlaps.add(map_, found, areas, sample.defect if sample.label else '')


def three_sigma(split: Split, maps: np.ndarray, resolution: str) -> float:
  """Mean and three standard deviations of the pixels of normal images (MVTec AD 2's baseline).

  Args:
    split: normal images that the model has not learned from.
    maps: anomaly maps of the split, floating [n, H, W].
    resolution: the size at which pixels are counted, one of `RESOLUTIONS`.

  Returns:
    The threshold, above which a pixel is called anomalous.
  """
  spread = Spread()
  for i in range(len(split.samples)):
    map_, seen = maps[i], split.seen(i)
    if resolution == 'original':
      map_, seen = _at_original(split, maps, i)
    spread.add(map_ if seen is None else map_[seen])
  return spread.three_sigma


def has_layers(samples: Iterable[Sample]) -> bool:
  """Whether the masks of all anomalous images tell their defects apart, and there are any."""
  anomalous = [sample for sample in samples if sample.label]
  return bool(anomalous) and all(isinstance(s.mask, LayeredMask) for s in anomalous)


def _known(mask: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
  return mask if seen is None else np.ma.array(mask, mask=~seen)


def _at_original(test: Split, maps: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray | None]:
  width, height = (int(length) for length in test.sizes[i])
  return test.framing.to_image(maps[i], (width, height), seen=test.seen(i))


def dump_maps(folder: Path, test: Split, maps: np.ndarray) -> None:
  """Writes each map at the size of its image as a float32 TIFF.

  The layout is that of MVTec's evaluation script, `test/<defect>/<id>.tiff`.

  Args:
    folder: the folder of the category's maps.
    test: the decoded split that the maps are of.
    maps: anomaly maps of the split, floating [N, H, W].
  """
  for i, sample in enumerate(test.samples):
    with atomic.atomic_write(
      folder / 'test' / sample.defect / f'{sample.stem}.tiff'
    ) as temporary:
      Image.fromarray(_at_original(test, maps, i)[0]).save(temporary)
