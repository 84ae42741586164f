"""Images in tiles: large ones as many of what a model sees, so that small defects stay large.

An image is resized to a canvas, of which each tile is a part. Tiles share a border with their
neighbours, in which maps fade into each other, so that no seam shows; `mosaic` puts them
together.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memkd_jax.data.framing import ALPHA, CROP, FIT, RGB, STRETCH, Framing, Size, seen_of
from memkd_jax.data.images import as_size
from memkd_jax.files.stored_rows import is_stored, mapped


@dataclasses.dataclass(frozen=True)
class Tiling:
  """How images become what a model sees.

  Attributes:
    size: (height, width) in pixels of a tile, as the model sees it.
    grid: (rows, columns) of tiles of every image, which is stretched to them.
    pixels: (height, width) of a tile in pixels of an image as it is: the larger the image, the
      more tiles. None where `grid` says how many.
    overlap: the share of a tile's side that it has in common with its neighbour, up to a half.
    by_position: whether each place of the grid has a model of its own.
  """

  size: Size
  grid: tuple[int, int] = (1, 1)
  pixels: Size | None = None
  overlap: float = 0.0
  by_position: bool = False

  @classmethod
  def of_config(cls, data: Mapping[str, Any]) -> 'Tiling':
    """That of a resolved config's section `data`, of an older run too."""
    pixels = as_size(data.get('tile_size', 0))
    return cls(
      as_size(data['image_size']),
      tuple(data.get('tiles', ())) or (1, 1),
      pixels if any(pixels) else None,
      data.get('tile_overlap', 0.0),
      data.get('tile_models', 'one') == 'position',
    )

  @classmethod
  def of_json(cls, image_size: Any, value: Mapping[str, Any] | None) -> 'Tiling':
    """The inverse of `to_json`.

    Raises:
      ValueError, KeyError, TypeError: the values are none of a tiling.
    """
    tiling = cls(_checked(image_size))
    if value is not None:
      grid, pixels, overlap = value['tiles'], value['tile_size'], float(value['overlap'])
      tiling = cls(
        tiling.size,
        (1, 1) if grid is None else _checked(grid),
        None if pixels is None else _checked(pixels),
        overlap,
      )
    if not 0 <= tiling.overlap <= 0.5:
      raise ValueError('the overlap is not from 0 to 0.5')
    return tiling

  def to_json(self) -> dict[str, Any] | None:
    """Values for a file; None where an image is one tile."""
    if self.is_whole:
      return None
    return {
      'tiles': list(self.grid) if self.pixels is None else None,
      'tile_size': None if self.pixels is None else list(self.pixels),
      'overlap': self.overlap,
    }

  @property
  def is_whole(self) -> bool:
    """Whether every image is one tile."""
    return self.pixels is None and self.grid == (1, 1)

  @property
  def is_ragged(self) -> bool:
    """Whether the size of the canvas is up to the image."""
    return self.pixels is not None

  @property
  def sizing(self) -> Size | Callable[[tuple[int, int]], Size]:
    """What a `Framing` takes: the size of all canvases, or `canvas`."""
    return self.canvas if self.is_ragged else self.canvas((1, 1))

  def canvas(self, original: tuple[int, int]) -> Size:
    """The size to which an image is resized before it is cut.

    Args:
      original: (width, height) of the image in pixels.
    """
    if self.pixels is None:
      return self._side(0), self._side(1)
    height, width = (
      max(side, round(length * side / pixels))
      for length, side, pixels in zip(original[::-1], self.size, self.pixels, strict=True)
    )
    return height, width

  def places(self, canvas: Sequence[int]) -> list[tuple[int, int]]:
    """(row, column) of the upper left pixel of each tile of a canvas, row by row."""
    rows, columns = (self._starts(length, axis) for axis, length in enumerate(canvas[:2]))
    return [(int(row), int(column)) for row in rows for column in columns]

  def cut(self, canvas: np.ndarray) -> np.ndarray:
    """The tiles of a canvas [H, W, ...], row by row: [T, height, width, ...]."""
    return np.stack([self._tile(canvas, place) for place in self.places(canvas.shape)])

  def cut_all(self, canvases: np.ndarray, arrays: np.ndarray | None = None) -> np.ndarray:
    """The tiles of which anything counts, image by image; the array itself where one each.

    Args:
      canvases: canvases of images, [N, H, W, 3 or 4], or objects [N].
      arrays: what is cut, of the same sizes, the canvases' masks for example; they if None.
    """
    arrays = canvases if arrays is None else arrays
    if self.is_whole or not len(canvases):
      return arrays
    found = [(number, place) for number, _, place in self.all_places(canvases)]
    return self.take(arrays, [number for number, _ in found], [place for _, place in found])

  def take(
    self, arrays: np.ndarray, numbers: Sequence[int], places: Sequence[tuple[int, int]]
  ) -> np.ndarray:
    """Some tiles: [n, height, width, ...]; of a file they are cut when they are read.

    Args:
      arrays: canvases [N, H, W, ...], or objects [N].
      numbers: n indices of canvases, that of each tile's own.
      places: (row, column) of each tile.
    """
    if is_stored(arrays):
      shape = (*self.size, *arrays.shape[3:])

      def cut(i: int, canvas: np.ndarray) -> np.ndarray:
        return self._tile(canvas, places[i])

      return mapped(arrays, np.array(numbers, np.int64), cut, shape)
    tiles = zip(numbers, places, strict=True)
    return np.stack([self._tile(arrays[number], place) for number, place in tiles])

  def all_places(
    self, canvases: Sequence[np.ndarray] | np.ndarray
  ) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(number of the canvas, and what `seen_places` has) of each tile, canvas by canvas."""
    shape: tuple[int, ...] = getattr(canvases, 'shape', ())
    if len(shape) == 4 and shape[-1] == 3:  # all count: no canvas need be read
      known = list(enumerate(self.places(shape[1:])))
      for number in range(len(canvases)):
        yield from ((number, index, place) for index, place in known)
      return
    for number, canvas in enumerate(canvases):
      for index, place in self.seen_places(canvas):
        yield number, index, place

  def seen_places(self, canvas: np.ndarray) -> list[tuple[int, tuple[int, int]]]:
    """(number, place) of each tile of which anything counts, of `places`; one at least."""
    return [
      (index, place)
      for index, place in enumerate(self.places(canvas.shape))
      if (seen := seen_of(self._tile(canvas, place))) is None or seen.any()
    ]

  def describe(self, canvases: np.ndarray) -> str:
    """How many tiles all normal images are, a sentence behind another; '' where one each."""
    if self.is_whole or not len(canvases):
      return ''
    number = sum(1 for _ in self.all_places(canvases))
    tiles = f' The normal images are {number} tiles of {self.size[0]} x {self.size[1]} pixels'
    return f'{tiles}, with a model for each place.' if self.by_position else f'{tiles}.'

  def stacked(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Canvases, masks or maps as one array [N, ...]; of objects [N] where sizes may differ."""
    if self.is_ragged:
      together = np.empty(len(arrays), object)
      for i, array in enumerate(arrays):
        together[i] = array
      return together
    if not len(arrays):
      return np.empty((0, *self.canvas((1, 1))), np.float32)
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)  # one may be large

  def weights(self, canvas: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """How much each row of tiles, and each column, counts in each pixel of its side.

    Returns:
      float32 [rows, height] and [columns, width]. Over the tiles that have a pixel in common
      the products of both sum to 1; towards the end of a tile they fall as a cosine does.
    """
    rows, columns = (self._fades(length, axis) for axis, length in enumerate(canvas[:2]))
    return rows, columns

  def _tile(self, canvas: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    (height, width), (y, x) = self.size, place
    return canvas[y : y + height, x : x + width]

  def _side(self, axis: int) -> int:
    return self.size[axis] + (self.grid[axis] - 1) * self._step(axis)

  def _step(self, axis: int) -> int:
    """Pixels from one tile to the next, at most."""
    return max(1, self.size[axis] - round(self.overlap * self.size[axis]))

  def _starts(self, length: int, axis: int) -> np.ndarray:
    rest = length - self.size[axis]
    number = 1 + -(-rest // self._step(axis))
    return np.linspace(0, rest, number).round().astype(int)

  def _fades(self, length: int, axis: int) -> np.ndarray:
    side, starts = self.size[axis], self._starts(length, axis)
    shared = side - np.diff(starts)  # with the next one
    weights = np.ones((len(starts), side))
    total = np.zeros(length)
    for k, start in enumerate(starts):
      if k > 0 and shared[k - 1] > 0:
        weights[k, : shared[k - 1]] *= _rise(shared[k - 1])
      if k < len(shared) and shared[k] > 0:
        weights[k, side - shared[k] :] *= _rise(shared[k])[::-1]
      total[start : start + side] += weights[k]
    # Where an overlap of a half is rounded up three tiles may have a pixel in common.
    weights /= np.stack([total[start : start + side] for start in starts])
    return weights.astype(np.float32)


def framing_of(data: Mapping[str, Any], region: np.ndarray | None = None) -> Framing:
  """How the images of a run lie on their canvases.

  Args:
    data: a resolved config's section `data`, of an older run too.
    region: bool [h, w], the region of interest, where `data.roi` is a file.
  """
  tiling, resize = Tiling.of_config(data), data.get('resize', STRETCH)
  return Framing(
    tiling.sizing,
    resize,
    region,
    data.get('roi', '') == ALPHA,
    tuple(data.get('inputs', (RGB,))),
    depth_range_of(data),
  )


def depth_range_of(data: Mapping[str, Any]) -> tuple[float, float] | None:
  """The heights that are black and white in a picture of depth; None where none is chosen."""
  found = data.get('depth_range', 'auto')
  return None if found == 'auto' else (float(found[0]), float(found[1]))


def describe_size(data: Mapping[str, Any]) -> str:
  """What a model sees, '256 x 256 pixels' for example, of a config's section `data`."""
  tiling = Tiling.of_config(data)
  height, width = tiling.size
  size = f'{height} x {width} pixels' + (' (height x width)' if height != width else '')
  if tiling.pixels is not None:
    size = f'tiles of {tiling.pixels[0]} x {tiling.pixels[1]} at {size}'
  elif not tiling.is_whole:
    size = f'{tiling.grid[0]} x {tiling.grid[1]} tiles of {size}'
  how = {FIT: ', whole images with a border', CROP: ', their middle'}
  part = ', a region of interest' if data.get('roi') else ''
  return size + how.get(data.get('resize', STRETCH), '') + part


def _checked(value: Any) -> tuple[int, int]:
  """Two positive numbers, of JSON; raises ValueError where it is something else."""
  sides = [value] if type(value) is int else value
  if not isinstance(sides, list) or len(sides) not in (1, 2):
    raise ValueError('it is neither a number nor two')
  if not all(type(side) is int and side > 0 for side in sides):
    raise ValueError('a size is no positive whole number')
  return sides[0], sides[-1]


def _rise(length: int) -> np.ndarray:
  """From 0 to 1 over so many pixels; with its reverse it sums to 1."""
  return np.asarray(np.sin(np.pi / 2 * (np.arange(length) + 0.5) / length) ** 2)
