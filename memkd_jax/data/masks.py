"""Ground-truth masks: which pixels of an image are marked as defective."""

import numpy as np
from PIL import Image

from memkd_jax.data.decoding import decode, reason_of
from memkd_jax.data.images import Notice, Sizing, as_framing, ignore
from memkd_jax.data.sample import LayeredMask, Mask, Readable
from memkd_jax.errors import UserError

SOFT_MASK = 'soft mask'  # for a `notice`: a mask has more than two values

_CLASSES = 64  # below which the values of a mask are ids of classes
_LOSSY = ('JPEG', 'MPO')
_NOT_ADDITIVE = ('CMYK', 'YCbCr', 'LAB', 'HSV')  # modes in which black is not zero


def read_mask(
  mask: Mask, size: Sizing, notice: Notice = ignore
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads a mask, makes it binary, and resizes it, in this order.

  The other way round, masks that store class ids 1, 2, ... would be lost.

  Args:
    mask: the file of the mask, or several.
    size: (height, width) of the result, to which the mask is stretched; or how it lies on its
      canvas.
    notice: see `decode_mask`.

  Returns:
    bool [height, width], True where defective, and the original (width, height).

  Raises:
    UserError: the file cannot be decoded.
  """
  defect = decode_mask(mask, notice)
  binary = Image.fromarray(np.where(defect, 255, 0).astype(np.uint8))
  return as_framing(size).lay(binary) >= 128, binary.size


def decode_mask(mask: Mask, notice: Notice = ignore) -> np.ndarray:
  """Reads a mask, whatever numbers it stands for defects with; of several files their union.

  Any non-zero value is defect in a mask of two values, in one with a palette, and in one of
  class ids: whole numbers below 64, in a file that is no JPEG. Other masks have soft edges,
  from a lossy format or from resizing: there, defect is what exceeds half of the highest value.
  The value of a coloured pixel is that of its brightest channel, and alpha says nothing.

  Args:
    mask: the file of the mask, or several.
    notice: called with SOFT_MASK where a mask has soft edges.

  Returns:
    bool [H, W] at the original size, True where defective.

  Raises:
    UserError: the file cannot be decoded, holds several pages, or exceeds the bounds of
      `decoding`; of several files see `decode_regions`.
  """
  if not isinstance(mask, LayeredMask):
    return _decode_mask(mask, notice)
  return np.any([region for region, _ in decode_regions(mask)], axis=0)


def decode_regions(mask: LayeredMask) -> list[tuple[np.ndarray, int]]:
  """The defects of an image one by one, which may overlap.

  Returns:
    Of each defect the pixels, bool [H, W] at the original size, and its saturation area.

  Raises:
    UserError: a file cannot be decoded, or is of another size than others; or it marks nothing,
      or more than one defect, or one that is not known.
  """
  known = {saturation.value: saturation for saturation in mask.saturations}
  regions = []
  for path in mask.layers:
    values = _mask_values(path)[0]
    marked = [int(value) for value in np.unique(values) if value]
    if len(marked) != 1 or marked[0] not in known:
      raise UserError(
        f'{path} marks defects as {marked}, not as one of {sorted(known)}; take the file that '
        'comes with the data set.'
      )
    region = values != 0
    regions.append((region, known[marked[0]].area(int(region.sum()))))
    if region.shape != regions[0][0].shape:
      raise UserError(f'{path} is of another size than {mask.layers[0]}; replace it.')
  return regions


def _decode_mask(path: Readable, notice: Notice) -> np.ndarray:
  values, mode, lossy = _mask_values(path)
  low, high = values.min(), values.max()
  is_binary = ((values == low) | (values == high)).all()
  if mode in ('P', 'PA') or is_binary or (high < _CLASSES and not lossy and _whole(values)):
    return np.asarray(values != 0)
  notice(SOFT_MASK)
  return np.asarray(values > high / 2)


def _mask_values(path: Readable) -> tuple[np.ndarray, str, bool]:
  """The values of a mask [H, W], of each pixel's brightest channel; and how they are kept."""
  try:
    file = decode(path, reject_16_bit_color=True)
    lossy = file.format in _LOSSY
    if file.mode in _NOT_ADDITIVE:
      file = file.convert('RGB')
    values = np.asarray(file)
    if file.mode in ('LA', 'PA', 'La', 'RGBA', 'RGBa'):
      values = values[..., :-1]
  except UserError:
    raise
  except Exception as error:
    reason = reason_of(error)
    raise UserError(f'{path} is not a readable mask ({reason}); replace it.') from error
  if values.ndim == 3:
    values = values.max(axis=-1)
  return values, file.mode, lossy


def _whole(values: np.ndarray) -> bool:
  return values.dtype.kind in 'biu' or bool((values == np.floor(values)).all())
