"""Decodes a split once, with a thread pool, into arrays that stay in memory."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from memkd_jax.data.images import read_image, read_mask
from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError
from memkd_jax.runtime.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Split:
  """The decoded images of a split, in the reader's order.

  Attributes:
    samples: what was decoded.
    images: uint8 [N, S, S, 3], RGB.
    masks: bool [N, S, S], or None where no sample has a mask.
    sizes: int [N, 2], (width, height) of the original images.
  """

  samples: tuple[Sample, ...]
  images: np.ndarray
  masks: np.ndarray | None
  sizes: np.ndarray

  @property
  def ids(self) -> tuple[str, ...]:
    """The names of the images."""
    return tuple(s.id for s in self.samples)

  @property
  def labels(self) -> np.ndarray:
    """int64 [N], 1 for anomalous, from the sample and not from its mask."""
    return np.array([s.label for s in self.samples])


def load_split(samples: Sequence[Sample], size: int, threads: int) -> Split:
  """Decodes all samples to squares of `size` pixels.

  Args:
    samples: at least one.
    size: side S in pixels.
    threads: decoding threads; Pillow releases the interpreter lock.

  Raises:
    UserError: a file is broken, or a mask has another size than its image.
  """
  has_masks = any(s.mask is not None for s in samples)
  try:
    images = np.empty((len(samples), size, size, 3), np.uint8)
    sizes = np.empty((len(samples), 2), int)
    masks = np.zeros((len(samples), size, size), bool) if has_masks else None
  except MemoryError as error:
    raise UserError(
      f'{len(samples)} images of {size}x{size} pixels do not fit into memory; lower '
      '--config.data.image_size.'
    ) from error

  def load(i: int) -> None:
    sample = samples[i]
    images[i], sizes[i] = read_image(sample.image, size)
    if masks is not None and sample.mask is not None:
      masks[i], mask_size = read_mask(sample.mask, size)
      width, height = sizes[i]
      if mask_size != (width, height):
        raise UserError(
          f'{sample.mask} is {mask_size[0]}x{mask_size[1]} pixels but its image '
          f'{sample.image} is {width}x{height}; they must be equal.'
        )

  with (
    ThreadPoolExecutor(threads) as pool,
    progress_bar('decoding', len(samples)) as progress,
  ):
    for _ in pool.map(load, range(len(samples))):
      progress.update()
  return Split(samples=tuple(samples), images=images, masks=masks, sizes=sizes)
