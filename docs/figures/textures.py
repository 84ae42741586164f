"""Draws docs/textures.png: crops of the demo's test images, and what a detector marks in them.

Of each texture the normal crop and the crop of each kind of defect with the median score, so
neither the best nor the worst. Where the image is called anomalous, colour begins and outlines
stand at the threshold of pixels. Thresholds are set with ten of the good test crops, which are
not shown, as `memkd calibrate` does it: good crops held out from the training overlap those
that are learned from, and look more usual than new ones.

  memkd train --config=best:demo --workdir=runs/textures --config.data.image_size=128 \
      --config.model.backbone=resnet18 --config.model.teacher_weights=resnet18.safetensors \
      --config.train.epochs=20 --config.train.calibration=holdout --config.train.holdout=0.25
  python docs/figures/textures.py --workdir=runs/textures --out=docs/textures.png
"""

import argparse
import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import memkd_jax
from memkd_jax.config import data_dir
from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.report.overlay import heat_map
from memkd_jax.scoring.calibration import Calibration, choose_threshold

_ENLARGED = 160  # pixels of a crop
_GAP = 6
_CALIBRATION = 10  # good crops
_OUTLINE = (255, 255, 255)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', required=True, help='a run on the demo')
  parser.add_argument('--out', required=True, help='the PNG')
  flags = parser.parse_args()
  data = Path(data_dir('memkd_demo_textures')).expanduser()
  kinds = ('good', *demo_textures.DEFECTS)
  rows = [
    [tile for kind in kinds for tile in _pair(flags.workdir, data, category, kind)]
    for category in demo_textures.CATEGORIES
  ]
  height = len(rows) * (_ENLARGED + _GAP) - _GAP
  width = len(rows[0]) * _ENLARGED + (len(kinds) - 1) * 3 * _GAP + len(kinds) * _GAP
  sheet = Image.new('RGB', (width - _GAP, height), 'white')
  for down, tiles in enumerate(rows):
    across = 0
    for number, tile in enumerate(tiles):
      sheet.paste(tile, (across, down * (_ENLARGED + _GAP)))
      across += _ENLARGED + (_GAP if number % 2 == 0 else 3 * _GAP)
  sheet.save(flags.out, optimize=True)


@functools.cache
def _detector(workdir: str, data: Path, category: str) -> memkd_jax.Detector:
  detector = memkd_jax.load(workdir, category)
  usual = detector(sorted((data / category / 'test' / 'good').iterdir())[:_CALIBRATION])
  calibration = Calibration.from_maps(usual.maps, usual.scores)
  detector.decide_by(calibration, choose_threshold(calibration))
  return detector


def _pair(workdir: str, data: Path, category: str, kind: str) -> list[Image.Image]:
  """The crop of a kind whose score is the median one, and what is marked in it."""
  detector = _detector(workdir, data, category)
  good = sorted((data / category / 'test' / 'good').iterdir())
  paths = good[_CALIBRATION:]
  if kind != 'good':
    paths = sorted((data / category / 'test' / kind).iterdir())
  result = detector(paths)
  i = int(np.argsort(result.scores)[len(paths) // 2])
  with Image.open(paths[i]) as file:
    crop = file.convert('RGB').resize((_ENLARGED, _ENLARGED), Image.Resampling.BICUBIC)
  marked = crop.copy()
  threshold = detector.pixel_threshold()
  if result.decisions is None or threshold is None:
    raise SystemExit(f'{category}: the detector does not decide: {detector.undecided}')
  if result.decisions[i]:
    map_ = np.asarray(
      Image.fromarray(result.maps[i]).resize(crop.size, Image.Resampling.BILINEAR)
    )
    marked = Image.fromarray(heat_map(np.asarray(crop), map_, threshold, float(map_.max())))
    inside = map_ > threshold
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2)
    pixels = np.asarray(marked).copy()
    pixels[edge] = _OUTLINE
    marked = Image.fromarray(pixels)
  ImageDraw.Draw(marked).rectangle((0, 0, _ENLARGED - 1, _ENLARGED - 1), outline='#888')
  return [crop, marked]


if __name__ == '__main__':
  main()
