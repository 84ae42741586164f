"""Draws docs/tiles_time.png: the seconds that a detector takes for an image of so many tiles.

The images are squares of one texture, mirrored at its borders. Each is scored twice, since the
first time may compile; the second time counts. The line is the least squares one through 0.

  python tools/large_textures.py --out=DIR --textures=brick
  memkd train --config=folder:patchcore --workdir=runs/tiles --config.data.dir=DIR \
      --config.train.holdout=0 --config.model.backbone=resnet18 --config.method.most=4096 \
      --config.data.tile_size=256 --config.data.tile_overlap=0.1
  python docs/figures/tiles_time.py --workdir=runs/tiles --out=docs/tiles_time.png
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import memkd_jax
from memkd_jax.data.benchmarks.demo_textures import photograph
from memkd_jax.detector import Detector

_SIDES = (1000, 2000, 3000, 4000, 5500, 7000, 8500, 10_000)  # pixels


def square(side: int) -> np.ndarray:
  """An image of a texture, mirrored at its borders.

  Args:
    side: its height and width in pixels.

  Returns:
    uint8 [side, side, 3].
  """
  texture = photograph('brick')
  further = [(0, max(0, side - length)) for length in texture.shape]
  grey = np.pad(texture, further, 'symmetric')[:side, :side]
  return np.repeat(grey[..., None], 3, -1)


def measure(detector: Detector, side: int) -> tuple[int, float]:
  """The number of tiles of a square image, and the seconds that its scores take."""
  image = square(side)
  tiles = len(detector.tiling.cut(image))
  for _ in range(2):
    began = time.monotonic()
    detector(image)
    seconds = time.monotonic() - began
  return tiles, seconds


def draw(path: Path, tiles: np.ndarray, seconds: np.ndarray) -> None:
  """Writes the figure.

  Args:
    path: a PNG file.
    tiles: int [N], the number of tiles of each image.
    seconds: float [N], what each took.
  """
  slope = float(tiles @ seconds / (tiles @ tiles))
  figure, axes = plt.subplots(figsize=(5, 3), layout='constrained')
  axes.plot([0, tiles.max()], [0, slope * tiles.max()], color='0.7')
  axes.plot(tiles, seconds, 'o', color='tab:orange')
  axes.text(tiles.max() / 2, seconds.max() / 4, f'{1000 * slope:.0f} ms a tile')
  axes.set(xlabel='tiles of 256 x 256 pixels', ylabel='seconds')
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of the detector')
  parser.add_argument('--out', type=Path, required=True, help='a PNG file')
  parser.add_argument('--sides', type=int, nargs='+', default=_SIDES, help='in pixels')
  options = parser.parse_args()
  detector = memkd_jax.load(options.workdir)
  found = []
  for side in options.sides:
    found.append(measure(detector, side))
    print(f'{side} pixels: {found[-1][0]} tiles, {found[-1][1]:.1f} s', flush=True)
  draw(options.out, *(np.array(values) for values in zip(*found, strict=True)))


if __name__ == '__main__':
  main()
