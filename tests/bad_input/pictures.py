"""Valid images of many formats, and damage that knows their headers."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

WIDTH, HEIGHT = 48, 40


def images() -> dict[str, bytes]:
  """{file name: content} of colour and grey photographs."""
  rng = np.random.default_rng(0)
  slope = np.linspace(0, 1, WIDTH) + np.linspace(0, 1, HEIGHT)[:, None]
  pixels = (rng.integers(0, 60, (HEIGHT, WIDTH, 3)) + 90 * slope[..., None]).astype(np.uint8)
  color = Image.fromarray(pixels)
  grey, other = color.convert('L'), Image.fromarray(255 - pixels)
  deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
  turned = Image.Exif()
  turned[0x0112], turned[0x010E] = 6, 'camera'
  text = PngImagePlugin.PngInfo()
  text.add_text('Comment', 'of a camera', zip=True)
  files = {
    'color.png': _save(color, pnginfo=text),
    'grey.png': _save(grey),
    'deep.png': _save(deep),
    'palette.png': _save(color.quantize(16)),
    'alpha.png': _save(color.convert('RGBA')),
    'turned.png': _save(color, exif=turned),
    'interlaced.png': interlaced_png(pixels),
    'color.jpg': _save(color, 'JPEG'),
    'grey.jpg': _save(grey, 'JPEG'),
    'progressive.jpg': _save(color, 'JPEG', progressive=True),
    'restarts.jpg': _save(color, 'JPEG', restart_marker_blocks=2),
    'turned.jpg': _save(color, 'JPEG', exif=turned),
    'cmyk.jpg': _save(color.convert('CMYK'), 'JPEG'),
    'color.bmp': _save(color, 'BMP'),
    'color.gif': _save(color, 'GIF'),
    'frames.gif': _save(color, 'GIF', save_all=True, append_images=[other]),
    'raw.tif': _save(color, 'TIFF'),
    'deep.tif': _save(deep, 'TIFF'),
    'lzw.tif': _save(color, 'TIFF', compression='tiff_lzw'),
    'deflate.tif': _save(color, 'TIFF', compression='tiff_adobe_deflate'),
    'pages.tif': _save(color, 'TIFF', save_all=True, append_images=[other]),
    'color.ppm': _save(color, 'PPM'),
    'color.tga': _save(color, 'TGA'),
    'color.webp': _save(color, 'WEBP'),
    'color.jp2': _save(color, 'JPEG2000'),
  }
  return files


def masks() -> dict[str, bytes]:
  """{file name: content} of masks with one region."""
  ids = np.zeros((HEIGHT, WIDTH), np.uint8)
  ids[8:20, 10:30] = 1
  flat = Image.fromarray(ids)
  palette = flat.copy()
  palette.putpalette([0, 0, 0, 255, 0, 0])
  white = Image.fromarray(ids * np.uint8(255))
  return {
    'ids.png': _save(flat),
    'white.png': _save(white),
    'bits.png': _save(white.convert('1')),
    'palette.png': _save(palette),
    'deep.png': _save(Image.fromarray(ids.astype(np.uint16))),
    'alpha.png': _save(white.convert('RGBA')),
    'white.bmp': _save(white, 'BMP'),
    'white.gif': _save(white, 'GIF'),
    'white.tif': _save(white, 'TIFF', compression='tiff_lzw'),
  }


def _save(image: Image.Image, format_: str = 'PNG', **options: Any) -> bytes:
  stream = io.BytesIO()
  image.save(stream, format_, **options)
  return stream.getvalue()


def interlaced_png(pixels: np.ndarray) -> bytes:
  """A PNG of RGB pixels [H, W, 3] in the seven passes of Adam7, which Pillow does not write."""
  starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
  starts += ((1, 0, 2, 2), (0, 1, 1, 2))
  rows = [
    b'\0' + row.tobytes()
    for column, line, across, down in starts
    for row in pixels[line::down, column::across]
    if row.size
  ]
  height, width, _ = pixels.shape
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 1)
  data = zlib.compress(b''.join(rows))
  parts = [chunk(b'IHDR', header), chunk(b'IDAT', data), chunk(b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def chunk(name: bytes, content: bytes) -> bytes:
  """A chunk of a PNG with its length and a right checksum."""
  checksum = zlib.crc32(name + content)
  return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def header_size(name: str, content: bytes) -> tuple[int, int] | None:
  """(width, height) that the header of a file claims, where that is easily read."""
  try:
    if name.endswith('.png') and content[:8] == b'\x89PNG\r\n\x1a\n':
      return struct.unpack('>II', content[16:24])
    if name.endswith('.bmp') and content[14:15] == b'\x28':
      width, height = struct.unpack('<ii', content[18:26])
      return width, abs(height)
  except struct.error:
    return None
  return None


# An exact side, its neighbours, and sides that no memory holds.
_SIDES = (1, HEIGHT // 2, HEIGHT + 1, HEIGHT + 16, 3 * HEIGHT, 10_000, 30_000, 65_500)


def damage_header(rng: random.Random, name: str, content: bytes) -> bytes | None:
  """Another size in a header that is otherwise right; None for formats unknown here."""
  side = rng.choice(_SIDES)
  suffix = name.rpartition('.')[2]
  if suffix == 'png':
    header = bytearray(content[16:29])
    field = rng.choice((0, 4, 'depth', 'color', 'interlace'))
    if isinstance(field, int):
      struct.pack_into('>I', header, field, rng.choice((side, side, 2**31 - 1)))
    else:
      at = {'depth': 8, 'color': 9, 'interlace': 12}[field]
      header[at] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16))
    return content[:8] + chunk(b'IHDR', bytes(header)) + content[33:]
  if suffix in ('jpg', 'bmp', 'gif'):
    find, form = {
      'jpg': (lambda: _frame_of_jpeg(content) + rng.choice((5, 7)), '>H'),
      'bmp': (lambda: rng.choice((18, 22)), '<i'),
      'gif': (lambda: rng.choice((6, 8)), '<H'),
    }[suffix]
    return _with_number(content, find(), form, side)
  if suffix == 'tif':
    # A tag of the first directory: its value, its type or its count.
    begin = struct.unpack_from('<I', content, 4)[0]
    number = struct.unpack_from('<H', content, begin)[0]
    entry = begin + 2 + 12 * rng.randrange(number)
    at, form = rng.choice(((8, '<I'), (8, '<I'), (4, '<I'), (2, '<H')))
    return _with_number(content, entry + at, form, rng.choice((side, 0, 2, 2**16 - 1)))
  return None


def bomb(rng: random.Random) -> tuple[str, bytes]:
  """A small file that asks for much."""
  kind = rng.choice(('size', 'text', 'texts', 'profile', 'pages', 'unknown', 'webp', 'ppm'))
  if kind == 'pages':
    page = Image.new('L', (64, 64))
    form, name = rng.choice((('TIFF', 'bomb.tif'), ('GIF', 'bomb.gif')))
    more = [Image.new('L', (64, 64), 1 + i % 2) for i in range(200)]
    return name, _save(page, form, save_all=True, append_images=more)
  if kind == 'ppm':
    return 'bomb.ppm', b'P6 %d %d 255\n' % (rng.choice((30_000, 10**9)), 30_000)
  if kind == 'webp':
    content = bytearray(_save(Image.new('RGB', (64, 64)), 'WEBP', lossless=True))
    content[21:25] = b'\xff\xff\xff\x0f'  # 16,384 pixels a side
    return 'bomb.webp', bytes(content)
  side = 30_000 if kind == 'size' else 16
  header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
  much = zlib.compress(bytes(64 * 2**20), 9)
  extra = {
    'text': chunk(b'zTXt', b'Comment\0\0' + much),
    'texts': 100 * chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(2**20 - 1))),
    'profile': chunk(b'iCCP', b'profile\0\0' + much),
    'unknown': chunk(b'abCd', bytes(2**20)),
  }.get(kind, b'')
  rows = (b'\0' + bytes(3 * 16)) * 16
  data = chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  return 'bomb.png', b'\x89PNG\r\n\x1a\n' + header + extra + data


def cut_jpeg(rng: random.Random, content: bytes) -> bytes:
  """Ends a JPEG's pixels early, with the marker that makes it look whole."""
  begin = content.index(b'\xff\xda') + 16
  return content[: rng.randrange(begin, len(content) - 2)] + b'\xff\xd9'


def _frame_of_jpeg(content: bytes) -> int:
  return max(content.find(b'\xff\xc0'), content.find(b'\xff\xc2'))


def _with_number(content: bytes, at: int, form: str, number: int) -> bytes:
  changed = bytearray(content)
  struct.pack_into(form, changed, at, number % 256 ** struct.calcsize(form))
  return bytes(changed)
