"""Decodes a split once, with a thread pool, into arrays that stay in memory."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from memkd_jax.data.images import read_image, read_mask
from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError
from memkd_jax.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Split:
  """The decoded images of a split, in the reader's order.

  Attributes:
    ids: of the samples.
    images: uint8 [N, S, S, 3], RGB.
    labels: int64 [N], 1 for anomalous, from the sample and not from its mask.
    masks: bool [N, S, S], or None where no sample has a mask.
  """

  ids: tuple[str, ...]
  images: np.ndarray
  labels: np.ndarray
  masks: np.ndarray | None


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
  images = np.empty((len(samples), size, size, 3), np.uint8)
  masks = np.zeros((len(samples), size, size), bool) if has_masks else None

  def load(i: int) -> None:
    sample = samples[i]
    images[i], image_size = read_image(sample.image, size)
    if masks is not None and sample.mask is not None:
      masks[i], mask_size = read_mask(sample.mask, size)
      if mask_size != image_size:
        raise UserError(
          f'{sample.mask} is {mask_size[0]}x{mask_size[1]} pixels but its image '
          f'{sample.image} is {image_size[0]}x{image_size[1]}; they must be equal.'
        )

  with (
    ThreadPoolExecutor(threads) as pool,
    progress_bar('decoding', len(samples)) as progress,
  ):
    for _ in pool.map(load, range(len(samples))):
      progress.update()
  return Split(
    ids=tuple(s.id for s in samples),
    images=images,
    labels=np.array([s.label for s in samples]),
    masks=masks,
  )
