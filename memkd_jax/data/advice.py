"""Which size and which tiles suit images, and the defects that are to be found in them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from memkd_jax.data.framing import FIT, STRETCH, Size
from memkd_jax.data.tiling import Tiling
from memkd_jax.metrics.pixels import EIGHT_CONNECTED

# What is narrower, in pixels of what the model sees, falls between the positions of its maps.
SEEN = 8
_SIDE = 256  # of what the model sees, by default
_MULTIPLE = 32  # of its sides
_SQUARE = 1.25  # how much longer a side may be where images are taken for squares
_SMALLEST = 64  # pixels of a tile, so that some surroundings are seen
# Where nothing is known of defects: the share of an image's own resolution that will do, and
# one over that of tiles.
_ENOUGH, _HALF = 1 / 3, 2
_NARROWEST = 0.05  # of all regions, which are not counted on


class Proposal(NamedTuple):
  """What is proposed.

  Attributes:
    tiling: how images become what the model sees.
    why: sentences that say why it is proposed.
    resize: how images get their size, see `data.framing`.
  """

  tiling: Tiling
  why: tuple[str, ...]
  resize: str = STRETCH

  def fields(self) -> dict[str, str]:
    """Fields of a config that are not as by default, by name, as on the command line."""
    fields = {}
    if self.tiling.size != (_SIDE, _SIDE):
      fields['data.image_size'] = ','.join(map(str, self.tiling.size))
    if self.resize != STRETCH:
      fields['data.resize'] = self.resize
    if self.tiling.pixels is not None:
      side, _ = self.tiling.pixels  # of a square
      fields['data.tile_size'] = str(side)
    return fields


def propose(sizes: Sequence[tuple[int, int]], defect: float | None) -> Proposal:
  """Proposes a size, or tiles.

  Args:
    sizes: (width, height) of the images in pixels, at least one.
    defect: how wide the smallest defect is, in pixels; None where nobody knows.
  """
  found = _propose(sizes, defect)
  if found.tiling.pixels is not None or not _differ(sizes):
    return found
  why = 'Their shapes differ, so each is put in whole, with a border that is never scored.'
  return found._replace(why=(*found.why, why), resize=FIT)


def _propose(sizes: Sequence[tuple[int, int]], defect: float | None) -> Proposal:
  whole, scale = _whole(sizes)
  percent = f'{100 * scale:.0f}%'
  if defect is not None:
    seen = f'A defect of {defect:g} pixels is {defect * scale:.1f} wide'
    if defect * scale >= SEEN:
      return Proposal(whole, (f'{seen} at {_named(whole.size)}, which is enough.',))
    side = max(_SMALLEST, int(_SIDE * defect / SEEN) // 16 * 16)
    if side < max(map(max, sizes)):
      tiles = Tiling((_SIDE, _SIDE), pixels=(side, side), overlap=0.25)
      larger = f'in tiles of {side} pixels it is {defect * _SIDE / side:.1f}'
      return Proposal(tiles, (f'{seen} at {_named(whole.size)}; {larger}.',))
    return Proposal(whole, (f'{seen} at {_named(whole.size)}, and cannot be seen larger.',))
  if scale >= _ENOUGH:
    return Proposal(whole, (f'The images are shown at {percent} of their resolution.',))
  tiles = Tiling((_SIDE, _SIDE), pixels=(_SIDE * _HALF, _SIDE * _HALF), overlap=0.25)
  why = (
    f'At {_named(whole.size)} the images would be shown at {percent} of their resolution, in '
    f'tiles of {_SIDE * _HALF} pixels at half of it.',
    'How wide the smallest defect is would say more: --defect=PIXELS, or --masks=FOLDER.',
  )
  return Proposal(tiles, why)


def narrowest(masks: Iterable[np.ndarray]) -> float | None:
  """How wide nearly all marked regions are at least, in pixels; None where nothing is marked.

  Args:
    masks: bool [H, W], True where defective.

  Returns:
    The shorter side of a region's box that 95% of the regions have.
  """
  widths = []
  for mask in masks:
    labels, _ = ndimage.label(mask, EIGHT_CONNECTED)
    boxes = ndimage.find_objects(labels)
    widths += [min(part.stop - part.start for part in box) for box in boxes]
  if not widths:
    return None
  return float(np.quantile(widths, _NARROWEST, method='lower'))


def _whole(sizes: Sequence[tuple[int, int]]) -> tuple[Tiling, float]:
  """One tile an image, of about the images' shape, and by how much images are shrunk."""
  ratio = float(np.median([height / width for width, height in sizes]))
  size: Size = (_SIDE, _SIDE)
  if not 1 / _SQUARE <= ratio <= _SQUARE and not _differ(sizes):
    height, width = _SIDE * math.sqrt(ratio), _SIDE / math.sqrt(ratio)
    size = _round(height), _round(width)
  scales = [min(size[0] / height, size[1] / width) for width, height in sizes]
  return Tiling(size), float(np.median(scales))


def _differ(sizes: Sequence[tuple[int, int]]) -> bool:
  """Whether the aspect ratios of images differ, so that stretching would bend some of them."""
  ratios = [height / width for width, height in sizes]
  return max(ratios) > _SQUARE * min(ratios)


def _round(side: float) -> int:
  return max(_MULTIPLE, round(side / _MULTIPLE) * _MULTIPLE)


def _named(size: Size) -> str:
  return f'{size[0]} x {size[1]}'
