"""Decodes a split once, with a thread pool, into arrays that stay in memory."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from memkd_jax.data.images import read_image, read_mask
from memkd_jax.data.sample import Readable, Sample
from memkd_jax.errors import UserError
from memkd_jax.runtime.progress import progress_bar


class Decoder(NamedTuple):
  """How the files of one kind of input become arrays.

  Attributes:
    read: `(file, S) -> (array [S, S, channels], (width, height) of the original)`.
    channels: number of channels of the array.
    dtype: the array's dtype.
  """

  read: Callable[[Readable, int], tuple[np.ndarray, tuple[int, int]]]
  channels: int
  dtype: type[np.generic]


# By the names of a sample's inputs. A further modality is an entry here.
DECODERS = {'rgb': Decoder(read_image, 3, np.uint8)}


@dataclasses.dataclass(frozen=True)
class Split:
  """A decoded split, in the reader's order.

  Attributes:
    samples: what was decoded, N of them.
    inputs: arrays [N, S, S, channels] by the names of `DECODERS`.
    masks: bool [N, S, S], or None where no sample has a mask.
    sizes: int [N, 2], (width, height) of the original images.
  """

  samples: tuple[Sample, ...]
  inputs: Mapping[str, np.ndarray]
  masks: np.ndarray | None
  sizes: np.ndarray

  @property
  def images(self) -> np.ndarray:
    """The RGB images, uint8 [N, S, S, 3]."""
    return self.inputs['rgb']

  @property
  def ids(self) -> tuple[str, ...]:
    """The ids of the samples."""
    return tuple(s.id for s in self.samples)

  @property
  def labels(self) -> np.ndarray:
    """int64 [N], 1 for anomalous, from the sample and not from its mask."""
    return np.array([s.label for s in self.samples])


def load_split(samples: Sequence[Sample], size: int, threads: int) -> Split:
  """Decodes all samples to squares of `size` pixels.

  Args:
    samples: at least one; all have the same kinds of inputs.
    size: side S of the squares, in pixels.
    threads: number of decoding threads; Pillow releases the interpreter lock.

  Raises:
    UserError: a file is broken, or a mask has another size than its image.
  """
  has_masks = any(s.mask is not None for s in samples)
  try:
    square = (len(samples), size, size)
    inputs = {
      name: np.empty((*square, DECODERS[name].channels), DECODERS[name].dtype)
      for name in samples[0].inputs
    }
    sizes = np.empty((len(samples), 2), int)
    masks = np.zeros(square, bool) if has_masks else None
  except MemoryError as error:
    raise UserError(
      f'{len(samples)} images of {size}x{size} pixels do not fit into memory; lower '
      '--config.data.image_size.'
    ) from error

  def load(i: int) -> None:
    sample = samples[i]
    for name, file in sample.inputs.items():
      inputs[name][i], sizes[i] = DECODERS[name].read(file, size)
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
  return Split(samples=tuple(samples), inputs=inputs, masks=masks, sizes=sizes)
