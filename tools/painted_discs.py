"""Writes a category of painted parts: an object that lies in any direction, with exact masks.

  python tools/painted_discs.py --out=DIR

A disc of brushed metal with a rim and six holes on a dark ground, 256 x 256 pixels, turned at
random and a few pixels aside, lit from anywhere, with noise. A defect is a `chip` out of its
rim, a `scratch`, a hole that is `missing`, or a soft `stain`. The layout is that of MVTec AD,
with the category `disc`.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from memkd_jax.errors import UserError, explain

CATEGORY = 'disc'
DEFECTS = ('chip', 'missing', 'scratch', 'stain')

_SIZE = 256
_FINER = 2  # pixels painted for one of the image, along each side
_RADIUS, _RIM = 0.40, 0.33  # of the disc, and where its rim begins; of the image's side
_HOLE, _HOLES, _HOLES_AT = 0.035, 6, 0.22  # radius, number, and distance from the centre
_GROUND, _METAL, _RIM_GREY = 30.0, 150.0, 190.0
_NOISE = 3.0  # grey values, standard deviation
_FEWEST = 30  # pixels of a mask, below which a defect is drawn anew


def paint(defect: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Paints one part.

  Args:
    defect: one of `DEFECTS`, or 'good'.
    rng: draws how the part lies and is lit, the defect, and noise.

  Returns:
    The image, uint8 [256, 256], and the defect's pixels, bool [256, 256].
  """
  place, angle = rng.uniform(-0.02, 0.02, 2), rng.uniform(0, 2 * np.pi)
  light, brushed = rng.uniform(0, 2 * np.pi), rng.normal(0, 5, _SIZE * _FINER)
  side = (np.arange(_SIZE * _FINER) + 0.5) / (_SIZE * _FINER) - 0.5
  x, y = np.meshgrid(side - place[0], side - place[1])
  # Of the part, turned with it.
  u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
  distance = np.hypot(u, v)

  missing = 0 if defect == 'missing' else None
  inside = distance < _RADIUS
  drilled = np.zeros_like(inside)
  for i in range(_HOLES):
    turn = 2 * np.pi * i / _HOLES
    hole = np.hypot(u - _HOLES_AT * np.cos(turn), v - _HOLES_AT * np.sin(turn)) < _HOLE
    if i == missing:
      mask = hole
    else:
      drilled |= hole
  metal = np.where(distance > _RIM, _RIM_GREY, _METAL)
  lines = np.interp(u, side, brushed)  # it is brushed along v
  metal = metal + lines + 60 * (np.cos(light) * x + np.sin(light) * y)

  if defect == 'good':
    mask = np.zeros_like(inside)
  elif defect == 'chip':
    turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.025, 0.045)
    bite = np.hypot(u - _RADIUS * np.cos(turn), v - _RADIUS * np.sin(turn)) < radius
    mask = bite & inside
    inside &= ~bite
  elif defect == 'scratch':
    start, length = rng.uniform(-0.15, 0.15, 2), rng.uniform(0.08, 0.2)
    turn = rng.uniform(0, 2 * np.pi)
    along = np.cos(turn) * (u - start[0]) + np.sin(turn) * (v - start[1])
    across = np.cos(turn) * (v - start[1]) - np.sin(turn) * (u - start[0])
    mask = (np.abs(across) < 0.005) & (np.abs(along) < length / 2) & inside & ~drilled
    metal = metal + mask * rng.choice((-60, 60))
  elif defect == 'stain':
    centre, radius = rng.uniform(-0.18, 0.18, 2), rng.uniform(0.03, 0.06)
    away = np.hypot(u - centre[0], v - centre[1]) / radius
    metal = metal - 45 * np.exp(-(away**2))
    mask = (away < 1) & inside & ~drilled
  part = np.where(inside & ~drilled, metal, _GROUND)
  image = _shrunk(part) + rng.normal(0, _NOISE, (_SIZE, _SIZE))
  return image.round().clip(0, 255).astype(np.uint8), _shrunk(mask) >= 0.5


def write(out: Path) -> None:
  """Writes the category's images and masks."""
  rng = np.random.default_rng(0)
  for i in range(flags.FLAGS.train):
    _save(out / 'train' / 'good' / f'{i:03}.png', paint('good', rng)[0])
  for i in range(2 * flags.FLAGS.test):
    _save(out / 'test' / 'good' / f'{i:03}.png', paint('good', rng)[0])
  for defect in DEFECTS:
    for i in range(flags.FLAGS.test):
      image, mask = paint(defect, rng)
      while mask.sum() < _FEWEST:  # a scratch across a hole
        image, mask = paint(defect, rng)
      _save(out / 'test' / defect / f'{i:03}.png', image)
      _save(out / 'ground_truth' / defect / f'{i:03}_mask.png', mask * np.uint8(255))


def _shrunk(painted: np.ndarray) -> np.ndarray:
  return painted.reshape(_SIZE, _FINER, _SIZE, _FINER).mean((1, 3))


def _save(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


def main(argv: list[str]) -> None:
  """Writes the category."""
  del argv
  try:
    if not flags.FLAGS.out:
      raise UserError('name a folder with --out.')
    out = Path(flags.FLAGS.out).expanduser() / CATEGORY
    out.mkdir(parents=True)
    write(out)
  except FileExistsError:
    sys.exit(f'painted_discs: {out} exists already; name another folder with --out.')
  except (UserError, OSError) as error:
    sys.exit(f'painted_discs: {explain(error)}')


def define_flags() -> None:
  """Not by an import, for what else imports this file may have flags of these names."""
  flags.DEFINE_string('out', '', 'Folder to write the category to; it must not have it.')
  flags.DEFINE_integer('train', 60, 'Normal images to learn from.')
  flags.DEFINE_integer('test', 10, 'Images of each defect; twice as many normal ones.')


if __name__ == '__main__':
  define_flags()
  app.run(main)
