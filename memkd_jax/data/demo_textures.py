"""The demo's data: scikit-image's textures with painted defects and exact masks.

Training crops come from the upper two thirds of each texture, test crops from
the lower third, so no tested pixel was ever trained on.
"""

import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = ('brick', 'grass', 'gravel')
DEFECTS = ('blob', 'scratch', 'shuffle')

_CROP = 128
_TRAIN_CROPS = 48
_TEST_CROPS = 8  # of each defect, and twice as many normal ones
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
  import skimage.data  # slow to import, and only the demo needs it

  texture = getattr(skimage.data, category)()
  border = texture.shape[0] * 2 // 3
  upper, lower = texture[:border], texture[border:]
  generator = np.random.default_rng([_SEED, zlib.crc32(category.encode())])

  for i in range(_TRAIN_CROPS):
    _save(folder / 'train' / 'good' / f'{i:03}.png', _crop(upper, generator))
  for i in range(2 * _TEST_CROPS):
    _save(folder / 'test' / 'good' / f'{i:03}.png', _crop(lower, generator))
  for defect in DEFECTS:
    for i in range(_TEST_CROPS):
      image, mask = paint(_crop(lower, generator), defect, generator)
      _save(folder / 'test' / defect / f'{i:03}.png', image)
      _save(folder / 'ground_truth' / defect / f'{i:03}_mask.png', mask * np.uint8(255))


def paint(
  image: np.ndarray, defect: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Paints one defect.

  Args:
    image: uint8 [H, W], a normal crop.
    defect: 'blob' (a smooth stain), 'scratch' (a thin line) or 'shuffle' (the
      texture's own pixels in random order: its grey values stay, its structure
      is gone).
    generator: of random numbers.

  Returns:
    The image, uint8 [H, W], and the exact mask, bool [H, W].
  """
  height, width = image.shape
  rows, columns = np.mgrid[:height, :width]
  row, column = generator.uniform(0.25, 0.75, 2) * (height, width)
  angle = generator.uniform(0, np.pi)
  along = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
  across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
  result = image.astype(np.float64)
  if defect == 'scratch':
    mask = (np.abs(along) <= generator.uniform(0.15, 0.3) * width) & (np.abs(across) <= 1.5)
    result[mask] = 255 if image.mean() < 128 else 0
  else:
    long, short = generator.uniform(0.08, 0.16, 2) * width
    distance = (along / long) ** 2 + (across / short) ** 2
    mask = distance <= 1
    if defect == 'blob':
      target = 30 if image.mean() > 128 else 225
      opacity = 0.3 + 0.5 * np.sqrt(1 - distance[mask])
      result[mask] += opacity * (target - result[mask])
    else:
      result[mask] = generator.permutation(result[mask])
  return np.rint(result).astype(np.uint8), mask


def _crop(texture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
  row = generator.integers(texture.shape[0] - _CROP + 1)
  column = generator.integers(texture.shape[1] - _CROP + 1)
  return texture[row : row + _CROP, column : column + _CROP]


def _save(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)
