"""Whether a file held all of its pixels, which Pillow does not say.

Where data end early Pillow leaves pixels black (PNG, TIFF, GIF) or grey (JPEG), and it does not
look at the checksums of a PNG's pixels. Of other formats that end early it raises an error.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

# The passes of an interlaced PNG (Adam7): first column, first row, and the steps between them.
_PASSES = (
  (0, 0, 8, 8),
  (4, 0, 8, 8),
  (0, 4, 4, 8),
  (2, 0, 4, 4),
  (0, 2, 2, 4),
  (1, 0, 2, 2),
  (0, 1, 1, 2),
)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG

_CHUNK = 2**20  # bytes that are inflated at once
_JPEG = ('JPEG', 'MPO')
# Ends the data of a JPEG's scan: a marker that neither stands for a byte nor restarts.
_SCAN_END = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Starts of frames: all of C0 to CF but the tables of Huffman (C4), of the arithmetic
# coder (CC), and a reserved one (C8).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)  # have no coefficients
# Pixel values by which the grey of missing blocks, 128, may differ after its conversion.
_TOLERANCE = 2


def check_before_decoding(file: ImageFile, content: bytes) -> None:
  """Checks what the headers promise.

  Args:
    file: the image, opened and not loaded yet.
    content: the bytes of the whole file.

  Raises:
    ValueError: the stored parts do not cover the image.
    Exception: the checksums of a PNG are wrong; of any kind that Pillow raises then.
  """
  if file.format == 'PNG':
    with Image.open(io.BytesIO(content), formats=['PNG']) as png:
      png.verify()  # after which it cannot be loaded
  # Further frames of an animation repaint a part.
  if file.format == 'TIFF' or (file.format == 'GIF' and not file.tell()):
    width, height = file.size
    boxes = {tuple(tile[1]) for tile in file.tile if tile[1]}
    covered = sum(
      max(min(right, width) - left, 0) * max(min(lower, height) - upper, 0)
      for left, upper, right, lower in boxes
    )
    if covered < width * height:
      raise ValueError('its parts do not cover all of it')


def check_after_decoding(file: ImageFile, content: bytes) -> None:
  """Checks whether the data reached the last pixel.

  Args:
    file: the image, loaded, and neither turned nor converted.
    content: the bytes of the whole file.

  Raises:
    ValueError: the data ended early.
  """
  if file.format == 'PNG':
    # Pillow begins with black; to inflate every file twice would cost half as much again.
    if (file.info.get('interlace') or not _last_row(file).any()) and not _inflates(content):
      raise ValueError('its pixels end early')
  elif file.format in _JPEG and not _is_whole_jpeg(file, content):
    raise ValueError('its pixels end early')


def _last_row(file: ImageFile) -> np.ndarray:
  width, height = file.size
  return np.asarray(file.crop((0, height - 1, width, height)))


def _inflates(content: bytes) -> bool:
  """Whether a PNG's data are as long as its header needs."""
  needed, inflated = 0, 0
  data = zlib.decompressobj()
  for name, chunk in _png_chunks(content):
    if name == b'IHDR':
      needed = _raw_size(*struct.unpack('>IIBBxxB', chunk[:13]))
    while name == b'IDAT' and chunk and inflated <= needed:
      inflated += len(data.decompress(chunk, _CHUNK))
      chunk = data.unconsumed_tail
  return inflated >= needed


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
  position = 8
  while position + 8 <= len(content):
    length, name = struct.unpack_from('>I4s', content, position)
    yield name, content[position + 8 : position + 8 + length]
    position += 12 + length


def _raw_size(width: int, height: int, depth: int, color: int, interlaced: int) -> int:
  """Bytes of a PNG's rows, each behind the byte that names its filter."""
  total = 0
  for column, row, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
    columns, rows = -(-(width - column) // across), -(-(height - row) // down)
    if columns > 0 and rows > 0:
      total += rows * (1 + (columns * depth * _CHANNELS[color] + 7) // 8)
  return total


def _is_whole_jpeg(file: ImageFile, content: bytes) -> bool:
  scans = _Scans(content)
  if scans.arithmetic:  # whose coder may leave out bytes at the end
    return True
  if not scans.complete:
    return False
  return (len(scans.ends) == 1 and not _may_be_filled(file)) or _stays_the_same(
    file, content, scans.ends
  )


def _may_be_filled(file: ImageFile) -> bool:
  """Whether the last block, which is the first to be missing, may be the filler."""
  if file.mode not in ('L', 'RGB'):
    return True
  # Colour bleeds into it from the block beside it, but brightness does not.
  brightness = file.crop((file.width - 1, file.height - 1, *file.size)).convert('L')
  return abs(int(np.asarray(brightness)[0, 0]) - 128) <= _TOLERANCE


def _stays_the_same(file: ImageFile, content: bytes, ends: Sequence[int]) -> bool:
  """Whether a JPEG stays the same with more data at the end of each of its scans.

  A decoder that had all it needs skips them, one that had not decodes them.
  """
  more = b'\x55\xaa' * 64
  more += b''.join(b'\xff' + bytes([marker]) + more for marker in range(0xD0, 0xD8))
  parts, position = [], 0
  for end in ends:
    parts += [content[position:end], more]
    position = end
  longer = io.BytesIO(b''.join([*parts, content[position:]]))
  with Image.open(longer, formats=_JPEG) as other:
    return file.size == other.size and file.tobytes() == other.tobytes()


class _Scans:
  """The scans of a JPEG's first image.

  Attributes:
    ends: where the data of each scan end, in bytes from the file's start.
    complete: whether they hold each coefficient of each component to its last bit.
    arithmetic: whether the coder is not Huffman's.
  """

  def __init__(self, content: bytes):
    self.ends: list[int] = []
    self.arithmetic = lossless = False
    missing: set[tuple[int, int]] = set()
    for marker, begin, end in _segments(content):
      segment = content[begin:end]
      if marker in _FRAMES:
        self.arithmetic, lossless = marker > 0xC8, marker in _LOSSLESS
        missing = {(component, k) for component in segment[6::3] for k in range(64)}
      elif marker == _START_OF_SCAN:
        number = segment[0]
        first, last, bits = segment[1 + 2 * number : 4 + 2 * number]
        if bits & 15 == 0:
          coefficients = range(first, last + 1)
          missing -= {(c, k) for c in segment[1 : 1 + 2 * number : 2] for k in coefficients}
        found = _SCAN_END.search(content, end)
        self.ends.append(found.start() if found else len(content))
    self.complete = lossless or not missing


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
  """(marker, first byte, end) of a JPEG's segments; goes past the data of scans."""
  position = 2
  while position + 4 <= len(content) and content[position] == 0xFF:
    marker = content[position + 1]
    if marker == 0xFF:  # a filling byte
      position += 1
      continue
    if marker == _END_OF_IMAGE:
      return
    end = position + 2 + struct.unpack_from('>H', content, position + 2)[0]
    yield marker, position + 4, end
    position = end
    if marker == _START_OF_SCAN:
      found = _SCAN_END.search(content, end)
      position = found.start() if found else len(content)
