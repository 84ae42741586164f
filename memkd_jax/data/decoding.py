"""Decodes an image file, whole or not at all, within bounds of memory and time."""

import functools
import io
import warnings
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.ImageFile import ImageFile

from memkd_jax.data import completeness
from memkd_jax.data.sample import Readable
from memkd_jax.files.reading import open_regular, read_stream

# Beyond this a file is refused before it is decoded: 100 megapixels, such as 10,000 lines
# of a line-scan camera with 10,000 pixels. The benchmarks have 2 megapixels at most.
MAX_PIXELS = 100_000_000
# Bytes of a file; MAX_PIXELS of uncompressed 16-bit colour have 0.6 GB.
MAX_BYTES = 2**30

# EPS hands its files to Ghostscript, which runs them as programs, and IPTC may hold EPS.
_PROGRAMS = ('EPS', 'IPTC')


@functools.cache
def formats() -> tuple[str, ...]:
  """The formats that Pillow decodes by itself, as it names them."""
  Image.init()
  return tuple(name for name in Image.ID if name not in _PROGRAMS)


@functools.cache
def suffixes() -> frozenset[str]:
  """Suffixes of the files of these formats, in lower case."""
  registered = Image.registered_extensions()
  return frozenset(suffix for suffix, name in registered.items() if name in formats())


def decode(path: Readable, reject_16_bit_color: bool = False) -> Image.Image:
  """Decodes a file; of several frames or pages, the first.

  Args:
    path: the file.
    reject_16_bit_color: whether to refuse colours of 16 bits, of which Pillow keeps only the
      high bytes.

  Returns:
    The image, as it is stored: not oriented, in any mode.

  Raises:
    OSError: the file cannot be read.
    Exception: the file is broken, incomplete, larger than `MAX_PIXELS` or `MAX_BYTES`, or of
      no known format; of any kind, as Pillow's plugins raise what they like.
  """
  _bound_pillow()
  with _open(path) as stream:
    content = read_stream(stream, MAX_BYTES)
  try:
    file = Image.open(io.BytesIO(content), formats=formats())
  except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
    raise ValueError(_TOO_LARGE) from error
  except Image.UnidentifiedImageError as error:
    raise ValueError('no format of images has such a header') from error
  with file:
    size = file.size
    if size[0] * size[1] > MAX_PIXELS:
      raise ValueError(_TOO_LARGE)
    if reject_16_bit_color and file.mode != 'I;16' and _has_16_bits(file):
      raise ValueError('it has 16 bits per colour; save it as a grey image')
    completeness.check_before_decoding(file, content)
    file.load()
    if file.size != size:
      raise ValueError(f'it is {file.size} pixels large but its header says {size}')
    completeness.check_after_decoding(file, content)
    return file


_TOO_LARGE = f'it has more than {MAX_PIXELS:,} pixels; cut or shrink it'


@functools.cache
def _bound_pillow() -> None:
  """Sets Pillow's own limit for this process: that of images within images.

  Icons, tiles and thumbnails are such; their size is not known before they are decoded.
  """
  Image.MAX_IMAGE_PIXELS = MAX_PIXELS
  warnings.simplefilter('error', Image.DecompressionBombWarning)


def _has_16_bits(file: ImageFile) -> bool:
  arguments = [tile[3] for tile in file.tile]
  raw_modes = [a[0] if isinstance(a, tuple) else a for a in arguments]
  return any('16' in str(mode) for mode in raw_modes)


def _open(path: Readable) -> IO[bytes]:
  return open_regular(path) if isinstance(path, Path) else path.open('rb')
