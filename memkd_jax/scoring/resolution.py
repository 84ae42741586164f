"""At which size maps are scored, and maps as files for other people's scoring."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data.images import decode_mask
from memkd_jax.data.splits import Split
from memkd_jax.files import atomic

# Masks resized to the maps, as RD's code does, or maps resized to untouched masks.
RESOLUTIONS = ('model', 'original')


def masks_and_maps(
  test: Split, maps: np.ndarray, resolution: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The pairs whose pixels are scored.

  Args:
    test: the decoded split, with masks.
    maps: [N, H, W].
    resolution: one of `RESOLUTIONS`.

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


def _known(mask: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
  return mask if seen is None else np.ma.array(mask, mask=~seen)


def _at_original(test: Split, maps: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray | None]:
  width, height = (int(length) for length in test.sizes[i])
  return test.framing.to_image(maps[i], (width, height), seen=test.seen(i))


def dump_maps(folder: Path, test: Split, maps: np.ndarray) -> None:
  """Writes each map at the size of its image as a float32 TIFF.

  The layout is that of MVTec's evaluation script, `test/<defect>/<id>.tiff`.

  Args:
    folder: of the category.
    test: the decoded split.
    maps: [N, H, W].
  """
  for i, sample in enumerate(test.samples):
    with atomic.atomic_write(
      folder / 'test' / sample.defect / f'{sample.stem}.tiff'
    ) as temporary:
      Image.fromarray(_at_original(test, maps, i)[0]).save(temporary)
