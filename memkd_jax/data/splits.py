"""Decodes a split once, with a thread pool, into arrays in memory or in a file."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from memkd_jax.data.bit_depth import FULL
from memkd_jax.data.framing import Framing, seen_of
from memkd_jax.data.image_store import Scratch
from memkd_jax.data.images import (
  CLIPPED,
  NO_ALPHA,
  SCALED,
  Sizing,
  as_framing,
)
from memkd_jax.data.masks import SOFT_MASK, read_mask
from memkd_jax.data.modalities import read_sample
from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError
from memkd_jax.files.stored_rows import take
from memkd_jax.runtime.progress import progress_bar

_SMALLER = 'lower --config.data.image_size, or cut images into fewer tiles'
_NAMED = 10  # broken files that an error repeats
_AT_ONCE = 1024  # images that wait for a thread


@dataclasses.dataclass(frozen=True)
class Split:
  """A decoded split, in the reader's order.

  Attributes:
    samples: the N samples that were decoded.
    images: the canvases, uint8 [N, H, W, channels of `Framing`]; of objects [N], each an array
      [H, W, channels], where the size of the canvas is up to the image. Of a file where they
      do not fit into memory, see `stored_rows`.
    masks: bool [N, H, W], or objects [N] where the images are such, True where defective; None
      where no sample has a mask.
    sizes: int [N, 2], (width, height) of the original images.
    framing: how images lie on their canvases.
    bits: how many of 16 bits per channel were used, see `bit_depth`.
    notes: sentences on how files were read that must stand beside results.
  """

  samples: tuple[Sample, ...]
  images: np.ndarray
  masks: np.ndarray | None
  sizes: np.ndarray
  framing: Framing
  bits: int = FULL
  notes: tuple[str, ...] = ()

  def seen(self, i: int) -> np.ndarray | None:
    """What of the canvas of an image counts, bool [H, W]; None for all."""
    if self.framing.channels == 3:
      return None
    return seen_of(self.images[i])

  @property
  def ids(self) -> tuple[str, ...]:
    """The ids of the samples."""
    return tuple(s.id for s in self.samples)

  @property
  def labels(self) -> np.ndarray:
    """int64 [N], 1 for anomalous, from the sample and not from its mask."""
    return np.array([s.label for s in self.samples], np.int64)

  @property
  def has_pixel_labels(self) -> np.ndarray:
    """Bool [N], whether it is known of each pixel what it is: all but defects without mask."""
    return np.array([not s.label or s.mask is not None for s in self.samples], bool)

  def take(self, indices: np.ndarray) -> 'Split':
    """The samples of some indices, int [M], in their order."""
    return dataclasses.replace(
      self,
      samples=tuple(self.samples[i] for i in indices),
      images=take(self.images, indices),
      masks=None if self.masks is None else self.masks[indices],
      sizes=self.sizes[indices],
    )


def load_split(
  samples: Sequence[Sample],
  size: Sizing,
  threads: int,
  bits: int = FULL,
  scratch: Scratch | None = None,
) -> Split:
  """Decodes all samples to their canvases.

  Args:
    samples: all have the inputs of the framing; there may be none.
    size: (height, width) of the canvases, to which images are stretched; or how images lie on
      them.
    threads: number of decoding threads; Pillow releases the interpreter lock.
    bits: how many of 16 bits per channel are used, see `bit_depth.choose`.
    scratch: where the images are kept in a file; None for memory, where masks always are.

  Raises:
    UserError: files are broken, or masks have another size than their image; all of them
      are named, up to a bound. Or the disk has no room.
  """
  framing = as_framing(size)
  has_masks = any(s.mask is not None for s in samples)
  try:
    if scratch is None or callable(framing.canvas):
      images = _empty(len(samples), framing, np.uint8, framing.channels)
    else:
      shape = (len(samples), *framing.canvas, framing.channels)
      what = f'{len(samples):,} decoded images'
      images = scratch.array(shape, np.uint8, what, 'data.memory=disk')
    sizes = np.empty((len(samples), 2), int)
    masks = _empty(len(samples), framing, bool) if has_masks else None
  except MemoryError as error:
    large = '' if callable(framing.canvas) else ' of {}x{} pixels'.format(*framing.canvas)
    raise UserError(
      f'{len(samples)} images{large} do not fit into memory; {_SMALLER}.'
    ) from error

  remarks: list[str] = []

  def load(i: int) -> None:
    sample = samples[i]
    images[i], sizes[i] = read_sample(sample, framing, bits, remarks.append)
    if masks is not None and sample.mask is None:
      masks[i] = np.zeros(framing.place((sizes[i][0], sizes[i][1])).size, bool)
    elif masks is not None and sample.mask is not None:
      masks[i], mask_size = read_mask(sample.mask, framing, remarks.append)
      width, height = sizes[i]
      if mask_size != (width, height):
        raise UserError(
          f'{sample.mask} is {mask_size[0]}x{mask_size[1]} pixels but its image '
          f'{sample.image} is {width}x{height}; they must be equal.'
        )

  def problem_of(i: int) -> UserError | None:
    try:
      load(i)
    except UserError as error:
      return error
    except MemoryError:
      return UserError(f'{samples[i].image} does not fit into memory; {_SMALLER}.')
    return None

  problems = []
  with (
    ThreadPoolExecutor(threads) as pool,
    progress_bar('decoding', len(samples)) as progress,
  ):
    for begin in range(0, len(samples), _AT_ONCE):
      some = range(begin, min(begin + _AT_ONCE, len(samples)))
      for problem in pool.map(problem_of, some):
        if problem is not None:
          problems.append(problem)
        progress.update()
  if problems:
    raise _together(problems)
  notes = describe_remarks(remarks, bits)
  return Split(tuple(samples), images, masks, sizes, framing, bits, notes)


def _empty(number: int, framing: Framing, dtype: Any, *channels: int) -> np.ndarray:
  if callable(framing.canvas):
    return np.empty(number, object)
  return np.empty((number, *framing.canvas, *channels), dtype)


def describe_remarks(remarks: Iterable[str], bits: int) -> tuple[str, ...]:
  """Sentences on what was remarkable about the files that were read.

  Args:
    remarks: the remarks on files that `images.Notice` was called with.
    bits: see `load_split`.
  """
  counts = Counter(remarks)
  notes = []
  if counts[SCALED] or counts[CLIPPED]:
    notes.append(
      f'Images of 16 bits per channel were read as {bits}-bit values, 0 to {2**bits - 1} '
      '(data.bit_depth).'
    )
  if clipped := counts[CLIPPED]:
    subject = '1 image holds' if clipped == 1 else f'{clipped} images hold'
    notes.append(
      f'{subject} values above {2**bits - 1}, the highest of {bits} bits; they were clipped.'
    )
  if whole := counts[NO_ALPHA]:
    subject = '1 image has' if whole == 1 else f'{whole} images have'
    notes.append(
      f'{subject} no alpha channel, so that all of {"it" if whole == 1 else "them"} counts '
      '(data.roi=alpha).'
    )
  if soft := counts[SOFT_MASK]:
    subject = '1 mask holds' if soft == 1 else f'{soft} masks hold'
    object_ = 'it was' if soft == 1 else 'they were'
    notes.append(
      f'{subject} more than two values; {object_} thresholded at half of '
      f'{"its" if soft == 1 else "their"} range.'
    )
  return tuple(notes)


def _together(problems: Sequence[UserError]) -> UserError:
  if len(problems) == 1:
    return problems[0]
  more = f' And {len(problems) - _NAMED} more.' if len(problems) > _NAMED else ''
  named = ' '.join(map(str, problems[:_NAMED]))
  return UserError(f'{len(problems)} samples cannot be read: {named}{more}')
