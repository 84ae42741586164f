"""The demo's data: scikit-image's textures with painted defects and exact masks.

Training crops come from the upper two thirds of each texture, test crops from
the lower third, so no tested pixel was ever trained on. Every defect has the grey values
of its surroundings, so that no threshold on them finds it.
"""

import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

CATEGORIES = ('brick', 'grass', 'gravel')
DEFECTS = ('foreign', 'scratch', 'shuffle', 'smear')

_CROP = 128
_TRAIN_CROPS = 48
_TEST_CROPS = 8  # of each defect, and twice as many normal ones
_SMEAR = 4.0  # pixels
_SEED = 0


def prepare(root: Path) -> None:
  """Writes the data set in the folder layout; `root` is complete or absent.

  Args:
    root: a folder that does not exist yet.
  """
  root.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f'.{root.name}-'))
  try:
    for category in CATEGORIES:
      _write_category(temporary / category, category)
    temporary.chmod(0o755)
    try:
      temporary.replace(root)
    except OSError:
      if not root.is_dir():  # else another run was faster, with the same content
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _write_category(folder: Path, category: str) -> None:
  texture = _texture(category)
  upper = training_part(texture)
  lower = texture[len(upper) :]
  others = [_texture(other) for other in CATEGORIES if other != category]
  generator = np.random.default_rng([_SEED, zlib.crc32(category.encode())])

  for i in range(_TRAIN_CROPS):
    _save(folder / 'train' / 'good' / f'{i:03}.png', _crop(upper, generator))
  for i in range(2 * _TEST_CROPS):
    _save(folder / 'test' / 'good' / f'{i:03}.png', _crop(lower, generator))
  for defect in DEFECTS:
    for i in range(_TEST_CROPS):
      other = others[generator.integers(len(others))]
      foreign = _crop(other[len(training_part(other)) :], generator)
      image, mask = paint(_crop(lower, generator), defect, generator, foreign)
      _save(folder / 'test' / defect / f'{i:03}.png', image)
      _save(folder / 'ground_truth' / defect / f'{i:03}_mask.png', mask * np.uint8(255))


def _texture(category: str) -> np.ndarray:
  import skimage.data  # slow to import, and only the demo needs it

  return getattr(skimage.data, category)()


def training_part(texture: np.ndarray) -> np.ndarray:
  """The upper two thirds of the rows; the others are tested on alone."""
  return texture[: texture.shape[0] * 2 // 3]


def paint(
  image: np.ndarray, defect: str, generator: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Paints one defect.

  Args:
    image: uint8 [H, W], a normal crop.
    defect: 'scratch', a line of one grey value that a pixel of the crop has; or a spot whose
      grey values stay while their places change: 'foreign' (the places are those of another
      texture's grey values), 'smear' (of the spot's, blurred in one direction) or 'shuffle'
      (random).
    generator: of random numbers.
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
  if defect == 'scratch':
    mask = (np.abs(along) <= generator.uniform(0.15, 0.3) * width) & (np.abs(across) <= 1.5)
    result[mask] = generator.choice(image.ravel())
    return result, mask
  long, short = generator.uniform(0.08, 0.16, 2) * width
  mask = (along / long) ** 2 + (across / short) ** 2 <= 1
  if defect == 'foreign':
    pattern = foreign[mask].astype(np.float64)
  elif defect == 'smear':
    axis = generator.integers(2)
    pattern = ndimage.gaussian_filter1d(image.astype(np.float64), _SMEAR, axis)[mask]
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
