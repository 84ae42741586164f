"""Proposes size, tiles and teacher for images, and says how long a training will take.

memkd advise --good=FOLDER
memkd advise --good=FOLDER --defect=6
memkd advise --good=FOLDER --masks=FOLDER
"""

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memkd_jax import cli
from memkd_jax.errors import UserError
from memkd_jax.runtime import interrupt
from memkd_jax.wording import counted

if TYPE_CHECKING:
  from memkd_jax.data.sample import Readable
  from memkd_jax.data.tiling import Tiling

_BATCH = 8
# Passes of the teacher that cost as much: a training step of the preset for an image whose
# features are known, and all else that is done once an image. By three fits with resnet18 on
# two cores: 40 images in 10 and 40 epochs, and 120 in 10, took 66, 184 and 170 s; a pass 0.017.
_STEP, _ONCE = 6, 19
_NAMED = 3  # sizes


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (the input is wrong) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('advise', lambda: _run(flags))


def _run(flags: argparse.Namespace) -> None:
  from memkd_jax.data.advice import propose
  from memkd_jax.data.image_list import category_of, list_samples

  with interrupt.handled():
    root = Path(flags.good).expanduser()
    paths = [sample.image for sample in list_samples(root, category_of(root), 'train')]
    sizes = _sizes(paths)
    print(f'{counted(len(sizes), "image")}: {_describe(sizes)}.')
    defect = flags.defect
    if flags.masks is not None:
      defect = _narrowest(Path(flags.masks).expanduser())
    proposal = propose(sizes, defect)
    for sentence in proposal.why:
      print(sentence)
    cli.start_jax()
    _say_cost(proposal.tiling, sizes)
    fields = [f'--config.{name}={value}' for name, value in proposal.fields().items()]
    workdir = f'--workdir=runs/{category_of(root)}'
    print(shlex.join(['memkd', 'train', f'--good={flags.good}', workdir, *fields]))


def _sizes(paths: 'Sequence[Readable]') -> list[tuple[int, int]]:
  """(width, height) of those that can be read; raises UserError where none can."""
  from memkd_jax.data.decoding import read_size

  sizes = [size for path in paths if (size := read_size(path))]
  if not sizes:
    raise UserError(f'none of {counted(len(paths), "image")} can be read; replace them.')
  if missing := len(paths) - len(sizes):
    print(f'Note: {counted(missing, "image")} cannot be read, and not be learned from either.')
  return sizes


def _describe(sizes: list[tuple[int, int]]) -> str:
  kinds = sorted(set(sizes), key=lambda size: (-sizes.count(size), size))
  named = ', '.join(f'{width} x {height}' for width, height in kinds[:_NAMED])
  more = f', and {len(kinds) - _NAMED} other sizes' if len(kinds) > _NAMED else ''
  return f'{named} pixels (width x height){more}'


def _narrowest(folder: Path) -> float:
  from memkd_jax.data.advice import narrowest
  from memkd_jax.data.listing import list_images_below
  from memkd_jax.data.masks import decode_mask

  paths, _ = list_images_below(folder)
  found = narrowest(decode_mask(path) for path in paths)
  if found is None:
    raise UserError(f'--masks={folder} holds no mask in which anything is marked.')
  print(f'{counted(len(paths), "mask")}: nearly all regions are {found:g} pixels wide or more.')
  return found


def _say_cost(tiling: 'Tiling', sizes: list[tuple[int, int]]) -> None:
  """Says how many tiles there are, what their features take, and how long a training."""
  from memkd_jax.config import choose_backbone
  from memkd_jax.configs import best
  from memkd_jax.runtime.devices import Devices

  tiles = sum(len(tiling.places(tiling.canvas(size))) for size in sizes)
  backbone, epochs = choose_backbone(), best.get_config().train.epochs
  seconds, size = _measure(backbone, tiling.size)
  free, _ = Devices().free_memory()
  total = tiles * seconds * (epochs * _STEP + _ONCE)
  what = counted(tiles, 'image') if tiling.is_whole else counted(tiles, 'tile')
  print(
    f'{what} for {epochs} epochs with {backbone}: about {_duration(total)} here; features take '
    f'{tiles * size / 1e9:.1f} GB, of {free / 1e9:.1f} GB that are free.'
  )


def _measure(backbone: str, size: tuple[int, int]) -> tuple[float, int]:
  """Seconds that the teacher looks at a tile, and bytes of its features."""
  import jax
  import numpy as np

  from memkd_jax.teachers.extractor import RANDOM, FeatureExtractor

  extractor = FeatureExtractor(backbone, RANDOM)
  images = np.zeros((_BATCH, *size, 3), np.uint8)
  look = jax.jit(lambda params, images: extractor(params, images, 3))
  times = []
  for _ in range(4):  # the first compiles
    begin = time.perf_counter()
    jax.block_until_ready(look(extractor.params, images))
    times.append(time.perf_counter() - begin)
  return min(times[1:]) / _BATCH, extractor.feature_bytes(images[:1], 3)


def _duration(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} seconds'
  return f'{seconds / 60:.0f} minutes' if seconds < 5400 else f'{seconds / 3600:.1f} hours'


def _positive(text: str) -> float:
  if not 0 < (number := float(text)) < float('inf'):
    raise argparse.ArgumentTypeError('give a number of pixels above 0')
  return number


def _parser() -> cli.Parser:
  parser = cli.Parser('advise', 'Proposes size and tiles for images, and a command to train.')
  add = parser.add_argument
  add(
    '--good',
    required=True,
    metavar='FOLDER|FILE',
    help='good images, as memkd train takes them',
  )
  either = parser.add_mutually_exclusive_group().add_argument
  either(
    '--defect',
    type=_positive,
    metavar='PIXELS',
    help='how wide the smallest defect is that matters, in pixels of the images',
  )
  either('--masks', metavar='FOLDER', help='masks of defects, which tell that')
  return parser


if __name__ == '__main__':
  cli.start(main)
