"""Decodes an image file, whole or not at all, within bounds of memory and time."""

import functools
import io
import sys
import warnings
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from memkd_jax.data import completeness
from memkd_jax.data.sample import Readable
from memkd_jax.errors import UserError
from memkd_jax.files.reading import open_regular, read_stream

# Beyond this a file is refused before it is decoded: 100 megapixels, such as 10,000 lines
# of a line-scan camera with 10,000 pixels. The benchmarks have 5 megapixels at
# most, but for Real-IAD's originals.
MAX_PIXELS = 100_000_000
# Bytes of a file; MAX_PIXELS of uncompressed 16-bit colour have 0.6 GB.
MAX_BYTES = 2**30

# EPS hands its files to Ghostscript, which runs them as programs, and IPTC may hold EPS.
_PROGRAMS = ('EPS', 'IPTC')

# Further pictures in a file of these are layers, previews and gain maps of the first.
_ONE_PICTURE = ('MPO', 'PSD')
_PREVIEW = (
  0b101  # of a TIFF's tag NewSubfileType: of lower resolution, or a mask of another page
)
_SUBFILE_TYPE = 254
_MAX_PAGES = 100_000

# Raw modes of 16 bits per colour, by the order of their bytes: big, little, this machine's.
_OTHER_ORDER = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}
_DEEP_MODES = tuple(
  f'{mode};16{order}' for mode in ('RGB', 'RGBA', 'RGBX') for order in _OTHER_ORDER
)

# In `Image.info`: the file has 16 bits per colour, of which these are the high bytes.
DEEP_COLOR = 'memkd_jax: 16 bits per colour'


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


def decode(
  path: Readable,
  reject_16_bit_color: bool = False,
  page: int | None = None,
  low_bytes: bool = False,
) -> Image.Image:
  """Decodes a file.

  Args:
    path: the image file, in any format that Pillow reads.
    reject_16_bit_color: whether to refuse colours of 16 bits, of which Pillow keeps only the
      high bytes.
    page: number of one of the file's pages, or frames, from 0; None where it must have one
      alone.
    low_bytes: whether to keep the low bytes of colours of 16 bits, in place of the high ones.

  Returns:
    The image, as it is stored: not oriented, in any mode.

  Raises:
    UserError: the file has several pages, and none is named.
    OSError: the file cannot be read.
    Exception: the file is broken, incomplete, larger than `MAX_PIXELS` or `MAX_BYTES`, or of
      no known format; of any kind, as Pillow's plugins raise what they like.
  """
  _bound_pillow()
  with _open(path) as stream:
    content = read_stream(stream, MAX_BYTES)
  with _identify(io.BytesIO(content)) as file:
    pages = _pages(file)
    if page is None and len(pages) > 1:
      raise UserError(
        f'{path} holds {len(pages)} pages or frames where one image is expected; save each of '
        'them as a file of its own.'
      )
    if file.tell() != (frame := pages[page or 0]):
      file.seek(frame)
    size = file.size
    if size[0] * size[1] > MAX_PIXELS:
      raise ValueError(_TOO_LARGE)
    # Grey images are integers in Pillow, which keeps all of their bits.
    colored = file.mode[0] not in 'IF'
    deep_color = colored and any(str(raw)[-4:-1] == ';16' for raw in _raw_modes(file))
    if colored and reject_16_bit_color and _has_16_bits(file):
      raise ValueError('it has 16 bits per colour; save it as a grey image')
    completeness.check_before_decoding(file, content)
    if low_bytes:
      _swap_bytes(file)
    file.load()
    if file.size != size:
      raise ValueError(f'it is {file.size} pixels large but its header says {size}')
    completeness.check_after_decoding(file, content)
    if deep_color:
      file.info[DEEP_COLOR] = True
    return file


def count_pages(path: Readable) -> int:
  """The number of pages of a file, or of frames of an animation; 1 where it is unreadable."""
  _bound_pillow()
  try:
    with _open(path) as stream, _identify(stream) as file:
      return len(_pages(file))
  # Whoever decodes it learns what is wrong.
  except Exception:
    return 1


def has_16_bits(path: Readable) -> bool:
  """Whether a file has 16 bits per channel, by its header; False where it is unreadable."""
  _bound_pillow()
  try:
    with _open(path) as stream, _identify(stream) as file:
      return file.mode[0] == 'I' or _has_16_bits(file)
  except Exception:
    return False


def read_size(path: Readable) -> tuple[int, int] | None:
  """(width, height) of an image, upright, by its header; None where it is unreadable."""
  _bound_pillow()
  try:
    with _open(path) as stream, _identify(stream) as file:
      turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
      return file.size[::-1] if turned else file.size
  except Exception:
    return None


def read_mode(path: Readable) -> str | None:
  """The mode of an image, as Pillow names it, by its header; None where it is unreadable."""
  _bound_pillow()
  try:
    with _open(path) as stream, _identify(stream) as file:
      return file.mode
  except Exception:
    return None


def _identify(stream: IO[bytes]) -> ImageFile:
  try:
    return Image.open(stream, formats=formats())
  except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
    raise ValueError(_TOO_LARGE) from error
  except Image.UnidentifiedImageError as error:
    raise ValueError('no format of images has such a header') from error


def _pages(file: ImageFile) -> list[int]:
  """Numbers of the frames that are pictures of their own, at least one."""
  number = 1 if file.format in _ONE_PICTURE else getattr(file, 'n_frames', 1)
  if number > _MAX_PAGES:
    raise ValueError(f'it has more than {_MAX_PAGES:,} pages')
  if number < 2 or file.format != 'TIFF':
    return list(range(max(number, 1)))
  pages = []
  for frame in range(number):
    file.seek(frame)
    if not int(file.tag_v2.get(_SUBFILE_TYPE, 0)) & _PREVIEW:  # type: ignore[attr-defined]
      pages.append(frame)
  file.seek(0)
  return pages or [0]


def _swap_bytes(file: ImageFile) -> None:
  """Has Pillow take the other byte of every colour of 16 bits.

  Raises:
    ValueError: it knows no such way to read this file.
  """
  if not all(raw in _DEEP_MODES for raw in _raw_modes(file)):
    raise ValueError('its 16 bits per channel cannot be read; save it with 8 bits per channel')

  def swapped(raw: str) -> str:
    return raw[:-1] + _OTHER_ORDER[raw[-1]]

  file.tile = [
    tile._replace(
      args=(swapped(tile.args[0]), *tile.args[1:])
      if isinstance(tile.args, tuple)
      else swapped(str(tile.args))
    )
    for tile in file.tile
  ]


_TOO_LARGE = f'it has more than {MAX_PIXELS:,} pixels; cut or shrink it'


@functools.cache
def _bound_pillow() -> None:
  """Sets Pillow's own limit for this process: that of images within images.

  Icons, tiles and thumbnails are such; their size is not known before they are decoded.
  """
  Image.MAX_IMAGE_PIXELS = MAX_PIXELS
  warnings.simplefilter('error', Image.DecompressionBombWarning)


def _has_16_bits(file: ImageFile) -> bool:
  return any('16' in str(mode) for mode in _raw_modes(file))


def _raw_modes(file: ImageFile) -> list[Any]:
  arguments = [tile[3] for tile in file.tile]
  return [a[0] if isinstance(a, tuple) else a for a in arguments]


def _open(path: Readable) -> IO[bytes]:
  return open_regular(path) if isinstance(path, Path) else path.open('rb')


def reason_of(error: Exception) -> str:
  """Why decoding failed, in one line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return ' '.join(str(error).split()) or type(error).__name__
