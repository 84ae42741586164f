"""Files are bounded before they are decoded, and decoded whole or not at all."""

import io
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from bad_input.pictures import chunk, interlaced_png
from PIL import Image, ImageFile, TiffImagePlugin

from memkd_jax.data import decoding
from memkd_jax.data.decoding import count_pages, decode
from memkd_jax.data.images import read_image, read_rgb
from memkd_jax.data.listing import list_images
from memkd_jax.data.masks import read_mask
from memkd_jax.errors import UserError

SIGNATURE = b'\x89PNG\r\n\x1a\n'


@pytest.fixture
def pixels(rng):
  return rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)


def png(header, rows, *extra):
  data = chunk(b'IDAT', zlib.compress(rows))
  return b''.join([SIGNATURE, chunk(b'IHDR', header), *extra, data, chunk(b'IEND', b'')])


def rgb_header(width, height):
  return struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)


def save(pixels, path, **options):
  Image.fromarray(pixels).save(path, **options)
  return path


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('side', [10_001, 14_000, 30_000, 2**31 - 1])
def test_large_images_are_refused_before_they_are_decoded(tmp_path, monkeypatch, side):
  monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: pytest.fail('it was decoded'))
  path = tmp_path / 'x.png'
  path.write_bytes(png(rgb_header(side, max(side, 10_000)), b'\0'))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for reader in (read_image, read_mask):
    with pytest.raises(UserError, match=r'x\.png is not a readable .*than 100,000,000 pixels'):
      reader(path, 32)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_pillow_is_bounded_by_the_first_image_and_not_by_the_import(tmp_path):
  Image.new('L', (8, 8)).save(tmp_path / 'x.png')
  program = (
    'import sys, warnings\n'
    'from PIL import Image, ImageOps\n'
    'import numpy, tqdm\n'
    'before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)\n'
    'from pathlib import Path\n'
    'from memkd_jax.data import datasets, decoding, splits\n'
    'assert before == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))\n'
    'decoding.decode(Path(sys.argv[1]))\n'
    'assert Image.MAX_IMAGE_PIXELS == decoding.MAX_PIXELS\n'
    'assert warnings.filters[0][:3:2] == ("error", Image.DecompressionBombWarning)\n'
  )
  subprocess.run([sys.executable, '-c', program, tmp_path / 'x.png'], check=True)


def test_the_limit_is_larger_than_what_cameras_and_benchmarks_have(tmp_path, monkeypatch):
  assert decoding.MAX_PIXELS >= 16_384 * 6_000
  monkeypatch.setattr(decoding, 'MAX_PIXELS', 48 * 40)
  path = save(np.zeros((40, 48), np.uint8), tmp_path / 'x.png')
  assert decode(path).size == (48, 40)
  with pytest.raises(ValueError, match='more than'):
    decode(save(np.zeros((40, 49), np.uint8), path))


def test_files_are_bounded_too(tmp_path, monkeypatch, pixels):
  monkeypatch.setattr(decoding, 'MAX_BYTES', 100)
  with pytest.raises(UserError, match='more than 100 bytes'):
    read_image(save(pixels, tmp_path / 'x.png'), (32, 32))


@pytest.mark.parametrize('name', [b'zTXt', b'iCCP', b'iTXt'])
def test_texts_that_inflate_are_refused(tmp_path, name):
  before = {b'zTXt': b'a\0\0', b'iCCP': b'a\0\0', b'iTXt': b'a\0\1\0\0\0'}[name]
  text = chunk(name, before + zlib.compress(bytes(100 * 2**20)))
  (tmp_path / 'x.png').write_bytes(png(rgb_header(4, 4), (b'\0' + bytes(12)) * 4, text))
  with pytest.raises(UserError, match=r'x\.png .*too large'):
    read_image(tmp_path / 'x.png', (32, 32))


@pytest.mark.parametrize('suffix', ['tif', 'gif', 'png', 'webp'])
def test_several_pages_are_refused_by_name_unless_one_is_asked_for(tmp_path, suffix):
  frames = [Image.new('RGB', (8, 8), (value, value, value)) for value in (50, 100, 200)]
  path = tmp_path / f'x.{suffix}'
  options = {'lossless': True} if suffix == 'webp' else {}
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  for reader in (read_image, read_mask):
    with pytest.raises(UserError, match=rf'x\.{suffix} holds 3 pages or frames .* own'):
      reader(path, 8)
  assert count_pages(path) == 3
  for page, value in enumerate((50, 100, 200)):
    assert (np.asarray(read_rgb(path, page=page)) == value).all()


def test_previews_in_a_file_are_no_pages(tmp_path):
  photo, preview = (Image.new('RGB', (side, side)) for side in (64, 8))
  photo.save(tmp_path / 'x.jpg', 'MPO', save_all=True, append_images=[preview])
  small = TiffImagePlugin.ImageFileDirectory_v2()
  small[254] = 1
  with TiffImagePlugin.AppendingTiffWriter(tmp_path / 'x.tif', True) as file:
    photo.save(file, 'TIFF')
    file.newFrame()
    preview.save(file, 'TIFF', tiffinfo=small)
  for name in ('x.jpg', 'x.tif'):
    assert count_pages(tmp_path / name) == 1
    assert read_image(tmp_path / name, (8, 8))[1] == (64, 64)


def test_no_file_is_handed_to_ghostscript(tmp_path):
  content = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
  for name in ('x.png', 'x.eps'):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match='no format of images'):
      read_image(tmp_path / name, (32, 32))
  assert [p.name for p in list_images(tmp_path)] == ['x.png']


def test_checksums_of_png_are_looked_at(tmp_path, pixels):
  path = save(pixels, tmp_path / 'x.png')
  content = path.read_bytes()
  begin = content.index(b'IDAT') + 4
  for at in range(begin, len(content) - 16, 499):
    damaged = bytearray(content)
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r'x\.png is not a readable image'):
      read_image(path, (32, 32))


@pytest.mark.parametrize('is_interlaced', [False, True])
def test_rows_that_a_png_lacks_are_missed(tmp_path, pixels, is_interlaced):
  path = tmp_path / 'x.png'
  content = interlaced_png(pixels) if is_interlaced else save(pixels, path).read_bytes()
  path.write_bytes(content)
  np.testing.assert_array_equal(np.asarray(decode(path)), pixels)
  header = bytearray(content[16:29])
  struct.pack_into('>I', header, 4, 56)
  path.write_bytes(SIGNATURE + chunk(b'IHDR', bytes(header)) + content[33:])
  with pytest.raises((ValueError, OSError)):
    decode(path)


@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P', 'I;16'])
def test_black_images_are_whole(tmp_path, mode):
  path = tmp_path / 'x.png'
  Image.new(mode, (50, 30)).save(path)
  assert decode(path).size == (50, 30)


def test_parts_that_do_not_cover_an_image_are_missed(tmp_path, pixels):
  tiff = tmp_path / 'x.tif'
  save(pixels, tiff, tiffinfo={TiffImagePlugin.ROWSPERSTRIP: 8})
  np.testing.assert_array_equal(np.asarray(decode(tiff)), pixels)
  content = bytearray(tiff.read_bytes())
  begin = struct.unpack_from('<I', content, 4)[0]
  for entry in range(struct.unpack_from('<H', content, begin)[0]):
    at = begin + 2 + 12 * entry
    if struct.unpack_from('<H', content, at)[0] == 257:  # ImageLength
      struct.pack_into('<I', content, at + 8, 56)
  tiff.write_bytes(content)
  gif = save(pixels[..., 0], tmp_path / 'x.gif')
  content = bytearray(gif.read_bytes())
  struct.pack_into('<H', content, 8, 56)
  gif.write_bytes(content)
  for path in (tiff, gif):
    with pytest.raises(ValueError, match='do not cover'):
      decode(path)


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 2}])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_filled_in_pixels_of_jpeg_are_seen(tmp_path, pixels, mode, options):
  path = tmp_path / 'x.jpg'
  Image.fromarray(pixels).resize((130, 90)).convert(mode).save(path, **options)
  decode(path)
  content = path.read_bytes()
  begin = content.index(b'\xff\xda') + 14
  for share in (0.05, 0.3, 0.6, 0.9):
    path.write_bytes(content[: begin + int(share * (len(content) - begin))] + b'\xff\xd9')
    with pytest.raises((ValueError, OSError)):
      decode(path)


@pytest.mark.parametrize('grey', [127, 128, 129])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 1}])
def test_grey_jpegs_are_whole(tmp_path, pixels, grey, options):
  pixels[20:] = grey
  for mode in ('RGB', 'L'):
    path = tmp_path / f'{mode}.jpg'
    Image.fromarray(pixels).convert(mode).save(path, **options)
    assert decode(path).size == (48, 40)


def test_16_bit_masks_are_told_by_their_mode_and_not_by_their_length(tmp_path):
  ids = np.zeros((40, 48), np.uint8)
  ids[8:20, 10:30] = 1
  stream = io.BytesIO()
  Image.fromarray(ids).save(stream, 'TIFF', compression='tiff_lzw')
  path = tmp_path / 'x.tif'
  for padding in range(16):  # Pillow keeps the length of the strip beside its mode
    path.write_bytes(stream.getvalue() + bytes(padding))
    assert read_mask(path, (48, 48))[0].any()


def test_16_bits_are_rounded_to_the_nearest(tmp_path):
  values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
  image, _ = read_image(save(values, tmp_path / 'x.png'), (256, 256))
  np.testing.assert_array_equal(image[..., 0], np.rint(values / 257))


def test_names_that_cannot_be_printed_are_refused(tmp_path, pixels):
  for name in ('a\nb.png', '\x1b[2J.png', b'\xe9.png'.decode(errors='surrogateescape')):
    path = save(pixels, tmp_path / name)
    with pytest.raises(UserError, match='cannot be printed'):
      list_images(tmp_path)
    path.unlink()


def test_nothing_that_looks_like_an_image_is_left_out(tmp_path):
  (tmp_path / 'x.png').symlink_to(tmp_path / 'gone.png')
  with pytest.raises(UserError, match=r'x\.png is a folder, a broken link or a device'):
    list_images(tmp_path)
