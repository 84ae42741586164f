"""The demo's data: scikit-image's textures with painted defects and exact masks.

Training crops come from the upper two thirds of each texture, test crops from
the lower third, so no tested pixel was ever trained on. Every defect has the grey values
of its surroundings, so that no threshold on them finds it.
"""

import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data import folder
from memkd_jax.data.sample import Dataset

CATEGORIES = ('brick', 'grass', 'gravel')
DEFECTS = ('foreign', 'scrape', 'shuffle')

# Which texture a foreign spot is of: nobody would find a piece of gravel in grass.
_FOREIGN = {'brick': 'grass', 'grass': 'brick', 'gravel': 'brick'}

_CROP = 128
_TRAIN_CROPS = 48
_TEST_CROPS = 8  # of each defect, and twice as many normal ones
_SCRAPE = 10  # lines, each a pixel wide
_SEED = 0


def photograph(category: str) -> np.ndarray:
  """A category's texture, uint8 [H, W], with all of its rows."""
  import skimage.data  # slow to import, and only the demo needs it

  return getattr(skimage.data, category)()


def training_part(texture: np.ndarray) -> np.ndarray:
  """The upper two thirds of the rows; the others are tested on alone."""
  return texture[: texture.shape[0] * 2 // 3]


def prepare(root: Path, texture: Callable[[str], np.ndarray] = photograph) -> None:
  """Writes the data set in the folder layout; `root` is complete or absent.

  Args:
    root: a folder that does not exist yet.
    texture: `name -> uint8 [H, W]`, the picture that a category's crops are taken from.
  """
  root.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f'.{root.name}-'))
  try:
    for category in CATEGORIES:
      _write_category(temporary / category, category, texture)
    temporary.chmod(0o755)
    try:
      temporary.replace(root)
    except OSError:
      if not root.is_dir():  # else another run was faster, with the same content
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _write_category(folder: Path, category: str, texture: Callable[[str], np.ndarray]) -> None:
  whole, other = texture(category), texture(_FOREIGN[category])
  upper = training_part(whole)
  lower = whole[len(upper) :]
  foreign = other[len(training_part(other)) :]
  generator = np.random.default_rng([_SEED, zlib.crc32(category.encode())])

  for i in range(_TRAIN_CROPS):
    _save(folder / 'train' / 'good' / f'{i:03}.png', _crop(upper, generator))
  for i in range(2 * _TEST_CROPS):
    _save(folder / 'test' / 'good' / f'{i:03}.png', _crop(lower, generator))
  for defect in DEFECTS:
    for i in range(_TEST_CROPS):
      piece = _crop(foreign, generator)
      image, mask = paint(_crop(lower, generator), defect, generator, piece)
      _save(folder / 'test' / defect / f'{i:03}.png', image)
      _save(folder / 'ground_truth' / defect / f'{i:03}_mask.png', mask * np.uint8(255))


def paint(
  image: np.ndarray, defect: str, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Paints one defect.

  Args:
    image: uint8 [H, W], a normal crop.
    defect: 'scrape', a band of parallel lines, each of the grey value of a random pixel of the
      crop; or a spot whose grey values stay while their places change: 'foreign' (they have
      the order of another texture's) or 'shuffle' (a random one).
    generator: the random generator, by which place, size and angle of the defect are drawn, and
      its grey values.
    foreign: uint8 [H, W], a crop of another texture.

  Returns:
    The image, uint8 [H, W], and the exact mask, bool [H, W].
  """
  height, width = image.shape
  rows, columns = np.mgrid[:height, :width]
  row, column = generator.uniform(0.25, 0.75, 2) * (height, width)
  angle = generator.uniform(0, np.pi)
  along = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
  across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
  result = image.copy()
  if defect == 'scrape':
    mask = np.abs(along) <= generator.uniform(0.2, 0.35) * width
    mask &= np.abs(across) < _SCRAPE / 2
    line = np.floor(across[mask] + _SCRAPE / 2).astype(int)
    result[mask] = generator.choice(image.ravel(), _SCRAPE)[line]
    return result, mask
  long, short = generator.uniform(0.12, 0.2, 2) * width
  mask = (along / long) ** 2 + (across / short) ** 2 <= 1
  if defect == 'foreign':
    pattern = foreign[mask].astype(np.float64)
  else:
    pattern = generator.random(mask.sum())
  order = np.argsort(pattern + generator.uniform(0, 1e-3, pattern.shape))  # ties fall anyhow
  values = np.empty_like(image[mask])
  values[order] = np.sort(image[mask])
  result[mask] = values
  return result, mask


def _crop(texture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
  row = generator.integers(texture.shape[0] - _CROP + 1)
  column = generator.integers(texture.shape[1] - _CROP + 1)
  return texture[row : row + _CROP, column : column + _CROP]


def _save(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


DATASET = Dataset(
  CATEGORIES, 'The demo makes them itself', folder.LAYOUT, folder.list_samples, prepare
)
