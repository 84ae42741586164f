"""Decodes files ahead of the device, in order, page by page."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from memkd_jax.data.decoding import count_pages
from memkd_jax.data.framing import RGB, Framing
from memkd_jax.data.images import read_rgb
from memkd_jax.data.modalities import read_object
from memkd_jax.errors import UserError

_LONGEST = 1024  # pixels of the longer side of `Decoded.small`


@dataclasses.dataclass(frozen=True)
class Decoded:
  """What is kept of an image, whose own pixels may be a hundred million.

  Attributes:
    path: path of the image's file, as it was given.
    page: number of the image in the file, from 0; None where the file holds one image alone.
    pages: how many images the file holds.
    size: (width, height) of the image in pixels.
    canvas: uint8 [H, W, 3 or 4], as the detector takes it, see `Framing`.
    small: uint8 [h, w, 3] at the image's aspect ratio, under the heat map.
    error: why it could not be read; then its arrays are empty.
  """

  path: Path
  page: int | None
  pages: int
  size: tuple[int, int] = (0, 0)
  canvas: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
  small: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
  error: UserError | None = None

  @property
  def name(self) -> str:
    """The path, with the number of the page, from 1, where the file holds several."""
    return str(self.path) if self.page is None else f'{self.path}#{self.page + 1}'


def batches(
  paths: Sequence[Path],
  batch_size: int,
  framing: Framing,
  bits: int,
  threads: int,
  notice: Callable[[str], None],
) -> Iterator[list[Decoded]]:
  """Decodes images in order; a batch or two are in memory.

  Args:
    paths: the files of the images.
    batch_size: number of images in a batch.
    framing: how images lie on their canvases.
    bits: see `data.images.read_image`.
    threads: number of threads that decode images.
    notice: see `data.images.read_image`.

  Yields:
    Batches; the pages of a file follow each other.
  """

  def read(path: Path, page: int, pages: int | None = None) -> Decoded:
    pages = pages or count_pages(path)
    number = page if pages > 1 else None
    try:
      image = read_rgb(path, bits, notice, page, alpha=framing.alpha)
      if framing.inputs == (RGB,):
        canvas = framing(image)
      else:
        canvas, _ = read_object(path, framing, bits, notice)
    except UserError as error:
      return Decoded(path, number, pages, error=error)
    size = image.size
    image.thumbnail((_LONGEST, _LONGEST))
    return Decoded(path, number, pages, size, canvas, np.asarray(image.convert('RGB')))

  with ThreadPoolExecutor(threads) as pool:
    try:
      images = _ahead(pool, read, [(path, 0) for path in paths], 2 * batch_size)
      with_pages = itertools.chain.from_iterable(
        itertools.chain(
          [first],
          _ahead(pool, read, _further(first), batch_size),
        )
        for first in images
      )
      while batch := list(itertools.islice(with_pages, batch_size)):
        yield batch
    finally:
      pool.shutdown(cancel_futures=True)


def _further(first: Decoded) -> list[tuple[Path, int, int]]:
  return [(first.path, page, first.pages) for page in range(1, first.pages)]


def _ahead(
  pool: ThreadPoolExecutor,
  read: Callable[..., Decoded],
  tasks: Sequence[tuple[Any, ...]],
  number: int,
) -> Iterator[Decoded]:
  """Results of tasks in order, while the next ones are at work."""
  waiting: deque[Future[Decoded]] = deque()
  for task in tasks:
    waiting.append(pool.submit(read, *task))
    if len(waiting) > number:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()
