"""Writes a category whose defects no photograph shows: bumps and dents of the surface's colour.

  python tools/painted_bumps.py --out=DIR

Crops of one of scikit-image's textures, 128 x 128 pixels of 0.2 mm, are the colour of a surface
half a metre away that is uneven by a tenth of a millimetre, lit and seen from the front: a
pixel is as bright as its colour times the cosine of the slope there. A defect is a bump or a
dent of 0.3 mm, 5 to 9 pixels wide (a standard deviation), whose slope darkens it by two grey
values at most. Normal images of the test show the same part of the texture as those with
defects do. The layout is that of MVTec 3D-AD: rgb, xyz in metres, and gt.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile
from absl import app, flags
from PIL import Image
from scipy import ndimage

from memkd_jax.data.benchmarks.demo_textures import CATEGORIES, photograph, training_part
from memkd_jax.errors import UserError, explain

DEFECTS = {'bump': 1.0, 'dent': -1.0}

_SIZE = 128
_PITCH = 2e-4  # metres of a pixel
_DISTANCE = 0.5  # metres
_UNEVEN, _WAVES = 1e-4, 12.0  # metres, and pixels: standard deviations of the surface
_NOISE = 1e-5  # metres, of a reading
_HEIGHT = 3e-4  # metres
_LOST = 0.02  # share of the readings


def paint(
  texture: np.ndarray, sign: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Paints one surface.

  Args:
    texture: uint8 [H, W], the part that crops are taken from.
    sign: 1 for a bump, -1 for a dent, 0 for none.
    rng: draws the crop, the surface, the defect, and noise.

  Returns:
    The photograph, uint8 [128, 128]; the cloud, float32 [128, 128, 3]; and the defect's pixels,
    bool [128, 128]: where it is a tenth of its height or more.
  """
  row, column = (rng.integers(0, side - _SIZE + 1) for side in texture.shape)
  colour = texture[row : row + _SIZE, column : column + _SIZE].astype(float)
  waves = ndimage.gaussian_filter(rng.normal(size=(_SIZE, _SIZE)), _WAVES, mode='wrap')
  height = _UNEVEN * waves / waves.std()
  y, x = np.mgrid[:_SIZE, :_SIZE]
  width, (above, left) = rng.uniform(5, 9), rng.uniform(24, _SIZE - 24, 2)
  shape = np.exp(-((y - above) ** 2 + (x - left) ** 2) / (2 * width**2))
  height = height + sign * _HEIGHT * shape
  slopes = np.gradient(height, _PITCH)
  cosine = 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
  image = (colour * cosine).round().clip(0, 255).astype(np.uint8)
  z = _DISTANCE - height + rng.normal(0, _NOISE, height.shape)
  cloud = np.stack([(x - _SIZE / 2) * _PITCH, (y - _SIZE / 2) * _PITCH, z], axis=-1)
  cloud[rng.random(height.shape) < _LOST] = 0
  return image, cloud.astype(np.float32), (shape > 0.1) & (sign != 0)


def write(out: Path, name: str, rng: np.random.Generator) -> None:
  """Writes a category."""
  texture = photograph(name)
  upper = training_part(texture)
  lower = texture[len(upper) :]
  for i in range(flags.FLAGS.train):
    _save(out / 'train' / 'good', i, *paint(upper, 0, rng))
  for i in range(flags.FLAGS.test):
    _save(out / 'test' / 'good', i, *paint(lower, 0, rng))
    for defect, sign in DEFECTS.items():
      _save(out / 'test' / defect, i, *paint(lower, sign, rng))


def _save(
  folder: Path, number: int, image: np.ndarray, cloud: np.ndarray, mask: np.ndarray
) -> None:
  for name in ('rgb', 'xyz', 'gt'):
    (folder / name).mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(folder / 'rgb' / f'{number:03}.png')
  cloud_file = folder / 'xyz' / f'{number:03}.tiff'
  tifffile.imwrite(cloud_file, cloud, photometric='rgb', compression='zlib')
  Image.fromarray(mask * np.uint8(255)).save(folder / 'gt' / f'{number:03}.png')


def main(argv: list[str]) -> None:
  """Writes all categories."""
  del argv
  try:
    if unknown := set(flags.FLAGS.textures) - set(CATEGORIES):
      raise UserError(f'--textures={unknown.pop()}: give some of {", ".join(CATEGORIES)}.')
    if not flags.FLAGS.out:
      raise UserError('name a folder with --out.')
    out = Path(flags.FLAGS.out).expanduser()
    out.mkdir(parents=True)
    for number, name in enumerate(flags.FLAGS.textures):
      write(out / name, name, np.random.default_rng([0, number]))
  except FileExistsError:
    sys.exit(
      f'painted_bumps: {flags.FLAGS.out} exists already; name another folder with --out.'
    )
  except (UserError, OSError) as error:
    sys.exit(f'painted_bumps: {explain(error)}')


def define_flags() -> None:
  """Not by an import, for what else imports this file may have flags of these names."""
  flags.DEFINE_string('out', '', 'Folder to write, which must not exist yet.')
  flags.DEFINE_list('textures', list(CATEGORIES), 'Which textures, one a category.')
  flags.DEFINE_integer('train', 40, 'Normal images to learn from.')
  flags.DEFINE_integer('test', 20, 'Images of each defect; as many normal ones.')


if __name__ == '__main__':
  define_flags()
  app.run(main)
