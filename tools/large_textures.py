"""Writes large images with small defects: what a detector that shrinks them cannot see.

  python tools/large_textures.py --out=DIR

Each is 2048 x 1536 pixels of one of scikit-image's textures, mirrored at random offsets, of its
own brightness, with noise of two grey values; a defect is a spot, six pixels wide, of pixels
that are by chance as dark or as bright as the darkest or the brightest fiftieth of the image.
Normal images of training and test are of the same texture, so that what is missed is missed
because it is small. The layout is that of MVTec AD, one category a texture.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from memkd_jax.data.benchmarks.demo_textures import CATEGORIES, photograph
from memkd_jax.errors import UserError, explain

_OUT = flags.DEFINE_string('out', '', 'Folder to write, which must not exist yet.')
_TEXTURES = flags.DEFINE_list('textures', ['brick'], f'Some of {", ".join(CATEGORIES)}.')
_WIDTH = flags.DEFINE_integer('width', 2048, 'Of an image, in pixels.')
_HEIGHT = flags.DEFINE_integer('height', 1536, 'Of an image, in pixels.')
_DIAMETER = flags.DEFINE_integer('diameter', 6, 'Of a defect, in pixels.')
_TRAIN = flags.DEFINE_integer('train', 8, 'Normal images to learn from.')
_TEST = flags.DEFINE_integer('test', 12, 'Normal images to test on, and as many with defects.')
_DEFECTS = flags.DEFINE_integer('defects', 3, 'Of an image that has any.')


def large(texture: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """A plane of a texture, mirrored at its borders, photographed from a random place.

  Args:
    texture: uint8 [H, W].
    height: of the result.
    width: of the result.
    rng: draws the place, the brightness, and noise.

  Returns:
    uint8 [height, width].
  """
  rows, columns = (
    _mirrored(rng.integers(2 * side), length, side)
    for side, length in zip(texture.shape, (height, width), strict=True)
  )
  seen = texture[np.ix_(rows, columns)] * rng.uniform(0.95, 1.05)
  return (seen + rng.normal(0, 2, seen.shape)).round().clip(0, 255).astype(np.uint8)


def spot(
  image: np.ndarray, diameter: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Makes the pixels at a random place as dark, or as bright, as the image's extremes.

  Args:
    image: uint8 [H, W].
    diameter: of the spot, in pixels.
    rng: draws the place, and the pixels.

  Returns:
    The image, and the mask, bool [H, W].
  """
  radius = diameter / 2
  height, width = image.shape
  row, column = (rng.uniform(diameter, side - diameter) for side in (height, width))
  rows, columns = np.ogrid[:height, :width]
  mask = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
  low, high = np.quantile(image, (0.02, 0.98))
  result = image.copy()
  result[mask] = np.where(rng.random(mask.sum()) < 0.5, low, high).astype(np.uint8)
  return result, mask


def _mirrored(first: int, length: int, side: int) -> np.ndarray:
  place = (first + np.arange(length)) % (2 * side)
  return np.where(place < side, place, 2 * side - 1 - place)


def write(out: Path, texture: str, rng: np.random.Generator) -> None:
  """Writes a category."""
  plane = photograph(texture)
  size = _HEIGHT.value, _WIDTH.value
  for i in range(_TRAIN.value):
    _save(out / 'train' / 'good' / f'{i:03}.png', large(plane, *size, rng))
  for i in range(_TEST.value):
    _save(out / 'test' / 'good' / f'{i:03}.png', large(plane, *size, rng))
    image, masks = large(plane, *size, rng), np.zeros(size, bool)
    for _ in range(_DEFECTS.value):
      image, mask = spot(image, _DIAMETER.value, rng)
      masks |= mask
    _save(out / 'test' / 'spot' / f'{i:03}.png', image)
    _save(out / 'ground_truth' / 'spot' / f'{i:03}_mask.png', masks * np.uint8(255))


def _save(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


def main(argv: list[str]) -> None:
  """Writes all categories."""
  del argv
  try:
    if unknown := set(_TEXTURES.value) - set(CATEGORIES):
      raise UserError(f'--textures={unknown.pop()}: give some of {", ".join(CATEGORIES)}.')
    if not _OUT.value:
      raise UserError('name a folder with --out.')
    out = Path(_OUT.value).expanduser()
    out.mkdir(parents=True)
    for number, texture in enumerate(_TEXTURES.value):
      write(out / texture, texture, np.random.default_rng([0, number]))
  except FileExistsError:
    sys.exit(f'large_textures: {_OUT.value} exists already; name another folder with --out.')
  except (UserError, OSError) as error:
    sys.exit(f'large_textures: {explain(error)}')


if __name__ == '__main__':
  app.run(main)
