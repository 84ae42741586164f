"""Decodes one image or mask file to a square uint8 array (protocol, data to arrays)."""

import numpy as np
from PIL import Image, ImageOps

from memkd_jax.data.decoding import decode
from memkd_jax.data.sample import Readable
from memkd_jax.errors import UserError


def read_image(path: Readable, size: int) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads an image of any format and mode that Pillow opens.

  Grey and palette are expanded, alpha is dropped, 16-bit grey is scaled by 1/257,
  EXIF orientation is applied. (Pillow itself reads 16-bit colour as its high
  bytes, which differs from the scaling by at most 1.) Of an animation or of several
  pages the first is taken.

  Args:
    path: the file.
    size: side of the result in pixels; the aspect ratio is ignored.

  Returns:
    uint8 [size, size, 3] RGB, resized bilinearly with antialiasing, and the
    (width, height) of the oriented original.

  Raises:
    UserError: the file cannot be decoded, or exceeds the bounds of `decoding`.
  """
  image = read_rgb(path)
  return resize(image, size), image.size


def read_rgb(path: Readable) -> Image.Image:
  """Reads an image as `read_image` does, at its own size."""
  try:
    file = decode(path)
    ImageOps.exif_transpose(file, in_place=True)
    return _to_rgb(file)
  except UserError:
    raise
  # Pillow's plugins raise nearly anything on broken and hostile files.
  except Exception as error:
    raise UserError(
      f'{path} is not a readable image ({_reason(error)}); replace or remove it.'
    ) from error


def to_square(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes an array as `read_image` does a file.

  Args:
    image: uint8 [H, W, 3] RGB, or [H, W] grey; returned as it is where it is
      [size, size, 3] already.
    size: side of the result in pixels.

  Returns:
    uint8 [size, size, 3].

  Raises:
    UserError: the array has another dtype or shape.
  """
  array = np.asarray(image)
  shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
  if array.dtype != np.uint8 or not shaped or not array.size:
    raise UserError(
      f'An image is {array.dtype} {list(array.shape)}; give uint8 [H, W, 3] (RGB) or [H, W].'
    )
  if array.shape == (size, size, 3):
    return array
  return resize(_to_rgb(Image.fromarray(array)), size)


def read_mask(path: Readable, size: int) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads a mask, makes it binary, and resizes it, in this order.

  The other way round, masks that store class ids 1, 2, ... would be lost.

  Args:
    path: the file.
    size: side of the result in pixels.

  Returns:
    bool [size, size], True where defective, and the original (width, height).

  Raises:
    UserError: the file cannot be decoded.
  """
  defect = decode_mask(path)
  binary = Image.fromarray(np.where(defect, 255, 0).astype(np.uint8))
  resized = np.asarray(binary.resize((size, size), Image.Resampling.BILINEAR))
  return resized >= 128, binary.size


def decode_mask(path: Readable) -> np.ndarray:
  """Reads a mask; any non-zero value (any palette index but 0) is defect.

  Args:
    path: the file.

  Returns:
    bool [H, W] at the original size, True where defective.

  Raises:
    UserError: the file cannot be decoded, or exceeds the bounds of `decoding`.
  """
  try:
    file = decode(path, reject_16_bit_color=True)
    values = np.asarray(file)
    if file.mode in ('LA', 'PA', 'La', 'RGBA', 'RGBa'):
      values = values[..., :-1]  # alpha says nothing about defects
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'{path} is not a readable mask ({_reason(error)}); replace it.') from error
  return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0)


def resize(image: Image.Image, size: int) -> np.ndarray:
  """An RGB image as uint8 [size, size, 3]; see `read_image`."""
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I'):
    # Pillow's own conversion of 16 and 32 bit integers clips at 255.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
      raise ValueError('its integers exceed 16 bits; save it with 8 or 16 bits per channel')
    # Rounds to the nearest, in a third of the memory that floating-point numbers need.
    image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
  elif image.mode == 'F':
    raise ValueError('it holds floating-point values; save it with 8 or 16 bits per channel')
  elif image.mode in ('P', 'PA'):
    # By way of RGBA, so that a transparent index keeps its colour silently.
    image = image.convert('RGBA')
  return image if image.mode == 'RGB' else image.convert('RGB')


def _reason(error: Exception) -> str:
  """Why decoding failed, in one line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return ' '.join(str(error).split()) or type(error).__name__
