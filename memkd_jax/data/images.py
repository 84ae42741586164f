"""Decodes one image or mask file to a square uint8 array (protocol, data to arrays)."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from memkd_jax.data.sample import Readable
from memkd_jax.errors import UserError

# What Pillow raises for files that are broken, hostile, or none of its formats.
_DECODING_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  MemoryError,
  Image.DecompressionBombError,
)


def list_folders(folder: Path) -> list[Path]:
  """The folders in a folder, sorted; hidden ones (.ipynb_checkpoints) are left out."""
  return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def list_images(folder: Path) -> list[Path]:
  """The files that Pillow can open by their suffix, sorted; hidden ones are left out.

  Args:
    folder: is looked through without its subfolders; it need not exist.
  """
  if not folder.is_dir():
    return []
  return sorted(
    p
    for p in folder.iterdir()
    if p.suffix.lower() in _suffixes() and not p.name.startswith('.') and p.is_file()
  )


def read_image(path: Readable, size: int) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads an image of any format and mode that Pillow opens.

  Grey and palette are expanded, alpha is dropped, 16-bit grey is scaled by 1/257,
  EXIF orientation is applied. (Pillow itself reads 16-bit colour as its high
  bytes, which differs from the scaling by at most 1.)

  Args:
    path: the file.
    size: side of the result in pixels; the aspect ratio is ignored.

  Returns:
    uint8 [size, size, 3] RGB, resized bilinearly with antialiasing, and the
    (width, height) of the oriented original.

  Raises:
    UserError: the file cannot be decoded.
  """
  try:
    with path.open('rb') as stream, Image.open(stream) as file:
      image = _to_rgb(ImageOps.exif_transpose(file))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)), image.size
  except _DECODING_ERRORS as error:
    raise UserError(
      f'{path} is not a readable image ({error}); replace or remove it.'
    ) from error


def read_mask(path: Readable, size: int) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads a mask and resizes it, in this order.

  Data sets that store class ids 1, 2, ... would lose them the other way round.

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
    UserError: the file cannot be decoded.
  """
  try:
    with path.open('rb') as stream, Image.open(stream) as file:
      if file.mode != 'I;16' and any('16' in str(tile.args) for tile in file.tile):
        # Pillow keeps only the high bytes, and class ids are low bytes.
        raise ValueError('it has 16 bits per colour; save it as a grey image')
      values = np.asarray(file)
      if file.mode in ('LA', 'PA', 'La', 'RGBA', 'RGBa'):
        values = values[..., :-1]  # alpha says nothing about defects
  except _DECODING_ERRORS as error:
    raise UserError(f'{path} is not a readable mask ({error}); replace it.') from error
  return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0)


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I'):
    # Pillow's own conversion of 16 and 32 bit integers clips at 255.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise ValueError('its integers exceed 16 bits; save it with 8 or 16 bits per channel')
    image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
  elif image.mode == 'F':
    raise ValueError('it holds floating-point values; save it with 8 or 16 bits per channel')
  elif image.mode in ('P', 'PA'):
    # By way of RGBA, so that a transparent index keeps its colour silently.
    image = image.convert('RGBA')
  return image.convert('RGB')


@functools.cache
def _suffixes() -> frozenset[str]:
  registered = Image.registered_extensions()
  return frozenset(suffix for suffix, name in registered.items() if name in Image.OPEN)
