"""The tiles of canvases, looked at in batches, and their maps put together again."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from memkd_jax.data.framing import Size, filled, seen_of
from memkd_jax.data.prefetch import Prefetch
from memkd_jax.data.tiling import Tiling
from memkd_jax.files.stored_rows import is_stored


class Mosaic:
  """Canvases as tiles that are looked at in batches, and their maps put together again."""

  def __init__(self, tiling: Tiling, canvases: Sequence[np.ndarray] | np.ndarray):
    """Cuts nothing yet.

    Args:
      tiling: how canvases are cut.
      canvases: N of them, uint8 [H, W, 3], or [H, W, 4] where not all of it may count. Tiles of
        which nothing counts are left out.
    """
    self._tiling, self._canvases = tiling, canvases
    # (height, width, channels) where all have the same; else each says its own.
    shape: tuple[int, ...] = getattr(canvases, 'shape', ())
    self._shape: tuple[int, ...] | None = shape[1:] if len(shape) == 4 else None
    self._places = list(tiling.all_places(canvases))
    if tiling.by_position:
      self._places.sort(key=lambda tile: tile[1])
    self._maps: dict[int, np.ndarray] = {}
    self._weights: tuple[Size, np.ndarray, np.ndarray] | None = None
    self._scores: list[np.ndarray] = []

  def __len__(self) -> int:
    """The number of tiles."""
    return len(self._places)

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Some tiles, uint8 [n, height, width, channels]."""
    height, width = self._tiling.size
    return np.stack(
      [self._canvases[i][y : y + height, x : x + width] for i, _, (y, x) in self._places[rows]]
    )

  def batches(self, size: int) -> Iterator[tuple[int, np.ndarray, int]]:
    """Yields all tiles in their order, `size` at most at once, of one model each.

    Yields:
      (number of the first one, tiles uint8 [n, height, width, channels], their place in the
      grid where places have models of their own, else 0).
    """
    by_position = self._tiling.by_position
    groups = itertools.groupby(self._places, lambda tile: tile[1] if by_position else 0)
    begin, parts = 0, []
    for position, group in groups:
      end = begin + len(list(group))
      parts += [(at, min(at + size, end), position) for at in range(begin, end, size)]
      begin = end

    def read(k: int) -> tuple[int, np.ndarray, int]:
      at, until, position = parts[k]
      return at, self[at:until], position

    stored = is_stored(self._canvases)
    ahead: Any = Prefetch(read, len(parts)) if stored else contextlib.nullcontext(read)
    with ahead as take:
      yield from map(take, range(len(parts)))

  @property
  def owners(self) -> np.ndarray:
    """Of which canvas each tile is, int64 [T]."""
    return np.array([number for number, _, _ in self._places], np.int64)

  def add(self, begin: int, maps: np.ndarray, scores: np.ndarray) -> None:
    """Takes what has been made of further tiles, in their order.

    Args:
      begin: number of the first of these tiles.
      maps: anomaly maps of the tiles, floating [n, height, width].
      scores: scores of the tiles, floating [n].
    """
    self._scores.append(scores)
    if self._tiling.is_whole:
      self._maps |= dict(enumerate(maps, begin))
      return
    height, width = self._tiling.size
    tiles = self._places[begin : begin + len(maps)]
    for (number, index, (y, x)), map_ in zip(tiles, maps, strict=True):
      height_, width_ = (self._shape or self._canvases[number].shape)[:2]
      canvas = height_, width_
      if number not in self._maps:
        self._maps[number] = np.zeros(canvas, maps.dtype)
      if self._weights is None or self._weights[0] != canvas:
        self._weights = canvas, *self._tiling.weights(canvas)
      _, rows, columns = self._weights
      row, column = divmod(index, len(columns))
      weight = rows[row][:, None] * columns[column]
      self._maps[number][y : y + height, x : x + width] += weight * map_

  @property
  def maps(self) -> np.ndarray:
    """When all tiles have been added: [N, H, W], of objects [N] where the tiling is ragged.

    What does not count has the `floor` of what does.
    """
    count = self._shape is not None and self._shape[-1] == 3
    seen = [None] * len(self._canvases) if count else map(seen_of, self._canvases)
    return self._tiling.stacked(
      [
        self._maps[i] if inside is None else filled(self._maps[i], inside)
        for i, inside in enumerate(seen)
      ]
    )

  @property
  def scores(self) -> np.ndarray:
    """The highest score of each canvas's tiles, [N]."""
    if not self._places:
      return np.empty(0, np.float32)
    scores = np.concatenate(self._scores)
    highest = np.full(len(self._canvases), -np.inf, scores.dtype)
    np.maximum.at(highest, self.owners, scores)
    return highest
