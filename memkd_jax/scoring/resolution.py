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
    original image's.
  """
  assert test.masks is not None
  for i, sample in enumerate(test.samples):
    if resolution == 'model':
      yield test.masks[i], maps[i]
      continue
    map_ = to_size(maps[i], test.sizes[i])
    mask = np.zeros(map_.shape, bool) if sample.mask is None else decode_mask(sample.mask)
    yield mask, map_


def to_size(map_: np.ndarray, size: np.ndarray) -> np.ndarray:
  """Resizes bilinearly (half-pixel, with antialiasing where it shrinks).

  Args:
    map_: [H, W].
    size: (width, height) in pixels.

  Returns:
    float32 [height, width].
  """
  width, height = (int(length) for length in size)
  if map_.shape == (height, width):
    return map_.astype(np.float32, copy=False)  # what may be large is not copied
  image = Image.fromarray(map_.astype(np.float32, copy=False))
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def dump_maps(folder: Path, test: Split, maps: np.ndarray) -> None:
  """Writes each map at the size of its image as a float32 TIFF.

  The layout is that of MVTec's evaluation script, `test/<defect>/<id>.tiff`.

  Args:
    folder: of the category.
    test: the decoded split.
    maps: [N, H, W].
  """
  for sample, map_, size in zip(test.samples, maps, test.sizes, strict=True):
    with atomic.atomic_write(
      folder / 'test' / sample.defect / f'{sample.stem}.tiff'
    ) as temporary:
      Image.fromarray(to_size(map_, size)).save(temporary)
