"""Decodes one image file to an array of a given size (protocol, data to arrays)."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from memkd_jax.data.bit_depth import FULL, to_8_bits
from memkd_jax.data.decoding import DEEP_COLOR, decode, reason_of
from memkd_jax.data.framing import Framing, Size
from memkd_jax.data.sample import Readable
from memkd_jax.errors import UserError

# What may be remarkable about a file, for a `notice`: it has 16 bits per channel and is read
# with fewer; some of its values exceed these; it has no alpha channel, which was asked for.
SCALED, CLIPPED, NO_ALPHA = 'scaled', 'clipped', 'no alpha'

_LARGEST_REGION = 4096  # pixels of its longer side

Notice = Callable[[str], None]

# (height, width) in pixels, to which an image is stretched; or how it gets its size.
Sizing = Size | Framing


def as_size(value: int | Sequence[int]) -> Size:
  """(height, width) of a value of `data.image_size`: one number stands for both."""
  if isinstance(value, int):
    return value, value
  height, width = value
  return int(height), int(width)


def size_value(size: Size) -> int | list[int]:
  """The value of `as_size` that files hold: one number where both are equal."""
  return size[0] if size[0] == size[1] else list(size)


def ignore(remark: str) -> None:
  """Takes a remark that nobody wants."""


def read_image(
  path: Readable, size: Sizing, bits: int = FULL, notice: Notice = ignore
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads an image of any format and mode that Pillow opens.

  Grey and palette are expanded, alpha is dropped, 16 bits per channel are scaled to 8, EXIF
  orientation is applied. (With all 16 bits Pillow itself reads colour as its high bytes, which
  differs from the scaling by at most 1.)

  Args:
    path: the image file, in any format that Pillow reads.
    size: (height, width) of the result, to which the image is stretched; or how it lies on its
      canvas.
    bits: how many of 16 bits per channel are used: 2**bits - 1 becomes 255, and what is above
      is clipped. Files of 8 bits are read the same whatever it is.
    notice: called with SCALED, CLIPPED and NO_ALPHA, each where it is so.

  Returns:
    uint8 [height, width, 3] RGB, resized bilinearly with antialiasing, and the
    (width, height) of the oriented original. With four channels where a framing says so.

  Raises:
    UserError: the file cannot be decoded, holds several pages, or exceeds the bounds of
      `decoding`.
  """
  framing = as_framing(size)
  image = read_rgb(path, bits, notice, alpha=framing.alpha)
  try:
    return framing(image), image.size
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def read_rgb(
  path: Readable,
  bits: int = FULL,
  notice: Notice = ignore,
  page: int | None = None,
  *,
  alpha: bool = False,
) -> Image.Image:
  """Reads an image as `read_image` does, at its own size.

  Args:
    path: the image file, in any format that Pillow reads.
    bits: see `read_image`.
    notice: see `read_image`.
    page: number of one of several pages, or frames, from 0; None where there must be one alone.
    alpha: whether the result is RGBA where the file has an alpha channel.
  """
  try:
    file = decode(path, page=page)
    ImageOps.exif_transpose(file, in_place=True)
    if DEEP_COLOR not in file.info or bits == FULL:
      return _to_rgb(file, bits, notice, alpha)
    low = decode(path, page=page, low_bytes=True)
    ImageOps.exif_transpose(low, in_place=True)
    values = sum(
      np.asarray(half)[..., :3].astype(np.uint16) * weight
      for half, weight in ((file, 256), (low, 1))
    )
    scaled = Image.fromarray(_scale(np.asarray(values), bits, notice))
    if alpha and 'A' in file.getbands():
      scaled.putalpha(file.getchannel('A'))
    elif alpha:
      notice(NO_ALPHA)
    return scaled
  except UserError:
    raise
  # Pillow's plugins raise nearly anything on broken and hostile files.
  except Exception as error:
    raise UserError(
      f'{path} is not a readable image ({reason_of(error)}); replace or remove it.'
    ) from error


def read_pillow(
  image: Image.Image, bits: int = FULL, notice: Notice = ignore, *, alpha: bool = False
) -> Image.Image:
  """Makes RGB, or RGBA, of an image that Pillow has opened, as `read_rgb` does of a file.

  Raises:
    UserError: it holds floating-point values, or its file is broken.
  """
  try:
    upright = ImageOps.exif_transpose(image)
    return _to_rgb(upright, bits, notice, alpha)
  except Exception as error:
    raise UserError(f'A Pillow image cannot be read ({reason_of(error)}).') from error


def to_size(
  image: np.ndarray, size: Sizing, bits: int = FULL, notice: Notice = ignore
) -> np.ndarray:
  """Resizes an array as `read_image` does a file.

  Args:
    image: uint8 [H, W, 3] RGB, [H, W, 4] whose alpha is dropped unless the framing asks for
      it, [H, W] or [H, W, 1] grey; or uint16, of which `bits` are used. Returned as it is
      where it is uint8 and of that size.
    size: see `read_image`.
    bits: see `read_image`.
    notice: see `read_image`.

  Returns:
    uint8 [height, width, 3].

  Raises:
    UserError: the array has another dtype or shape.
  """
  framing = as_framing(size)
  array = checked(image)
  if array.dtype == np.uint16:
    array = _scale(array, bits, notice)
  if framing.channels == 3 and array.ndim == 3:
    (height, width), *boxes = framing.place(array.shape[1::-1])
    if array.shape[:2] == (height, width) and boxes == [(0, 0, width, height)] * 2:
      return array
  pixels = _to_rgb(Image.fromarray(np.ascontiguousarray(array)))
  whole = np.asarray(image)
  if framing.alpha and whole.ndim == 3 and whole.shape[2] == 4:
    opaque = 255 if whole.dtype == np.uint8 else 2**bits - 1
    shown = whole[..., 3] > opaque // 2
    pixels.putalpha(Image.fromarray(np.where(shown, 255, 0).astype(np.uint8)))
  return framing(pixels)


def checked(image: np.ndarray) -> np.ndarray:
  """An image's array as [H, W, 3] or [H, W], uint8 or uint16.

  Args:
    image: see `to_size`.

  Raises:
    UserError: the array has another dtype or shape.
  """
  array = np.asarray(image)
  if array.ndim == 3 and array.shape[2] in (1, 4):
    array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
  shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
  if array.dtype not in (np.uint8, np.uint16) or not shaped or not array.size:
    hint = ''
    if np.issubdtype(array.dtype, np.floating):
      hint = '; (255 * image).round().astype(np.uint8) makes it of numbers from 0 to 1'
    elif shaped is False and array.ndim == 3 and array.shape[0] in (1, 3, 4):
      hint = '; np.moveaxis(image, 0, -1) makes it of one whose channels come first'
    raise UserError(
      f'An image is {array.dtype} {list(np.shape(image))}; give uint8 [H, W, 3] (RGB) or '
      f'[H, W]{hint}.'
    )
  return array


def read_region(path: Readable) -> np.ndarray:
  """Reads a region of interest, a picture that is white inside.

  Inside is what is brighter than half of the brightest pixel, and not transparent. Of a large
  picture as many pixels are kept as tell the region from another by eye.

  Returns:
    bool [h, w], upright, its longer side 4096 pixels at most.

  Raises:
    UserError: the file cannot be decoded, or nothing is inside.
  """
  image = read_rgb(path, alpha=True)
  if 'A' in image.getbands():
    black = Image.new('RGBA', image.size, 'black')
    image = Image.alpha_composite(black, image)
  grey = image.convert('L')
  grey.thumbnail((_LARGEST_REGION, _LARGEST_REGION), Image.Resampling.NEAREST)
  values = np.asarray(grey)
  inside = values > values.max() / 2
  if not inside.any():
    raise UserError(
      f'{path} marks nothing, so nothing would be looked at; make the region of interest white '
      'and the rest black.'
    )
  return inside


def as_framing(size: Sizing) -> Framing:
  """What brings images to a size: stretching, where it is no framing."""
  return size if isinstance(size, Framing) else Framing(size)


def _to_rgb(
  image: Image.Image, bits: int = FULL, notice: Notice = ignore, alpha: bool = False
) -> Image.Image:
  if image.mode.startswith('I'):
    # Pillow's own conversion of 16 and 32 bit integers clips at 255.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
      raise ValueError('its integers exceed 16 bits; save it with 8 or 16 bits per channel')
    image = Image.fromarray(_scale(values, bits, notice))
  elif image.mode == 'F':
    raise ValueError('it holds floating-point values; save it with 8 or 16 bits per channel')
  elif image.mode in ('P', 'PA'):
    # By way of RGBA, so that a transparent index keeps its colour silently.
    image = image.convert('RGBA')
  transparent = 'A' in image.getbands() or 'transparency' in image.info
  if alpha and not transparent:
    notice(NO_ALPHA)
  mode = 'RGBA' if alpha and transparent else 'RGB'
  return image if image.mode == mode else image.convert(mode)


def _scale(values: np.ndarray, bits: int, notice: Notice) -> np.ndarray:
  if bits != FULL:
    notice(CLIPPED if values.max() >= 2**bits else SCALED)
  return to_8_bits(values, bits)
