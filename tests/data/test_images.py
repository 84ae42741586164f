"""Every format becomes RGB uint8 by value (protocol, data to arrays)."""

import numpy as np
import pytest
from PIL import Image

from memkd_jax.data.images import read_image
from memkd_jax.data.masks import SOFT_MASK, decode_mask, read_mask
from memkd_jax.errors import UserError

SIZE = 8


@pytest.fixture
def rgb(rng):
  return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def grey(rgb):
  return rgb[..., 0]


def read(path):
  return read_image(path, (SIZE, SIZE))[0]


def test_rgb_and_grey_keep_their_values(tmp_path, rgb, grey):
  Image.fromarray(rgb).save(tmp_path / 'rgb.png')
  Image.fromarray(grey).save(tmp_path / 'grey.bmp')
  np.testing.assert_array_equal(read(tmp_path / 'rgb.png'), rgb)
  np.testing.assert_array_equal(read(tmp_path / 'grey.bmp'), np.stack([grey] * 3, -1))


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_alpha_is_dropped_and_not_blended(tmp_path, rgb, grey, mode):
  color = rgb if mode == 'RGBA' else grey[..., None]
  alpha = np.tile(np.arange(SIZE, dtype=np.uint8) * 30, (SIZE, 1))[..., None]
  Image.fromarray(np.concatenate([color, alpha], -1)).save(tmp_path / 'x.png')
  np.testing.assert_array_equal(read(tmp_path / 'x.png'), np.broadcast_to(color, rgb.shape))


@pytest.mark.parametrize('transparency', [None, 3])
def test_palettes_are_expanded(tmp_path, rng, transparency):
  colors = rng.integers(0, 256, (16, 3), dtype=np.uint8)
  indices = rng.integers(0, 16, (SIZE, SIZE), dtype=np.uint8)
  image = Image.fromarray(indices)
  image.putpalette(colors.tobytes())
  options = {} if transparency is None else {'transparency': transparency}
  image.save(tmp_path / 'x.png', **options)
  np.testing.assert_array_equal(read(tmp_path / 'x.png'), colors[indices])


@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, grey, suffix):
  path = tmp_path / f'x.{suffix}'
  Image.fromarray(grey.astype(np.uint16) * 257).save(path)
  np.testing.assert_array_equal(read(path), np.stack([grey] * 3, -1))
  Image.fromarray(np.full((SIZE, SIZE), 1000, np.uint16)).save(path)
  assert (read(path) == round(1000 / 257)).all()


def test_one_bit_and_cmyk(tmp_path, rgb, grey):
  Image.fromarray(grey > 128).save(tmp_path / 'bits.png')
  np.testing.assert_array_equal(read(tmp_path / 'bits.png')[..., 0], 255 * (grey > 128))
  Image.fromarray(rgb).convert('CMYK').save(tmp_path / 'x.tiff')
  np.testing.assert_array_equal(read(tmp_path / 'x.tiff'), rgb)


def test_exif_orientation_is_applied(tmp_path):
  pixels = np.zeros((8, 16, 3), np.uint8)
  pixels[:, :8] = 255  # left half white; turned by 90 degrees the top half is
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(pixels).save(tmp_path / 'x.png', exif=exif)
  image, original = read_image(tmp_path / 'x.png', (SIZE, SIZE))
  assert original == (8, 16)
  assert image[0].min() == 255
  assert image[-1].max() == 0


def test_resizing_ignores_the_aspect_and_is_antialiased(tmp_path):
  stripes = np.zeros((64, 128), np.uint8)
  stripes[:, ::2] = 255
  Image.fromarray(stripes).save(tmp_path / 'x.png')
  image = read(tmp_path / 'x.png')
  assert image.shape == (SIZE, SIZE, 3)
  assert 120 <= image.min() <= image.max() <= 135  # without antialiasing 0 or 255


@pytest.mark.parametrize(
  'content', [b'', b'no image', b'\x89PNG\r\n\x1a\nbroken'], ids=['empty', 'text', 'header']
)
def test_broken_files_are_named(tmp_path, content):
  (tmp_path / 'x.png').write_bytes(content)
  for reader in (read_image, read_mask):
    with pytest.raises(UserError, match=r'x\.png is not a readable'):
      reader(tmp_path / 'x.png', SIZE)


def test_truncated_files_are_named(tmp_path, rng):
  Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / 'x.jpg')
  (tmp_path / 'x.jpg').write_bytes((tmp_path / 'x.jpg').read_bytes()[:800])
  with pytest.raises(UserError, match=r'x\.jpg is not a readable image'):
    read(tmp_path / 'x.jpg')


def test_floating_point_images_have_no_known_scale(tmp_path):
  Image.fromarray(np.ones((SIZE, SIZE), np.float32)).save(tmp_path / 'x.tiff')
  with pytest.raises(UserError, match='floating-point'):
    read(tmp_path / 'x.tiff')


@pytest.mark.parametrize('value', [1, 7, 255])
def test_masks_of_class_ids_survive_the_resizing(tmp_path, value):
  ids = np.zeros((32, 32), np.uint8)
  ids[8:16, 16:24] = value
  Image.fromarray(ids).save(tmp_path / 'x.png')
  mask, original = read_mask(tmp_path / 'x.png', (SIZE, SIZE))
  assert original == (32, 32)
  assert mask.dtype == bool
  np.testing.assert_array_equal(np.argwhere(mask), [[2, 4], [2, 5], [3, 4], [3, 5]])


def test_masks_are_binarised_before_and_not_after_resizing(tmp_path, rng):
  binary = ndarray = rng.random((40, 40)) > 0.5
  Image.fromarray(ndarray.astype(np.uint8)).save(tmp_path / 'x.png')
  expected = Image.fromarray(binary.astype(np.uint8) * 255).resize((SIZE, SIZE), Image.BILINEAR)
  np.testing.assert_array_equal(
    read_mask(tmp_path / 'x.png', (SIZE, SIZE))[0], np.asarray(expected) >= 128
  )


def test_mask_modes(tmp_path, grey):
  defect = grey > 128
  flat = defect.astype(np.uint8)
  palette = Image.fromarray(flat)
  palette.putpalette([9, 9, 9, 0, 0, 0])  # index 1 is black, and a defect all the same
  opaque = np.full_like(flat, 255)
  modes = {
    'palette': palette,
    'bits': Image.fromarray(defect),
    '16': Image.fromarray(flat.astype(np.uint16)),
    'rgb': Image.fromarray(np.stack([flat, 0 * flat, 0 * flat], -1)),
    'rgba': Image.fromarray(np.stack([flat, flat, flat, opaque], -1)),
    'la': Image.fromarray(np.stack([flat, opaque], -1)),
  }
  for name, image in modes.items():
    image.save(tmp_path / f'{name}.png')
    np.testing.assert_array_equal(
      read_mask(tmp_path / f'{name}.png', (SIZE, SIZE))[0], defect, name
    )


def test_a_truncated_jpeg_is_named(tmp_path, rng):
  path = tmp_path / 'cut.JPG'
  Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match=r'cut\.JPG is not a readable image .*truncated.*replace'):
    read_image(path, (32, 32))


@pytest.fixture
def blob():
  y, x = np.mgrid[:64, :64]
  return (x - 30) ** 2 + (y - 34) ** 2 < 150


def test_lossy_masks_are_thresholded_at_half_of_their_range(tmp_path, blob):
  Image.fromarray(blob.astype(np.uint8) * 255).save(tmp_path / 'x.jpg', quality=75)
  seen = []
  np.testing.assert_array_equal(decode_mask(tmp_path / 'x.jpg', seen.append), blob)
  assert seen == [SOFT_MASK]


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'I;16', 'F'])
def test_masks_with_soft_edges_are_thresholded_at_half_of_their_range(tmp_path, blob, mode):
  large = Image.fromarray(blob.astype(np.uint8) * 255).resize((192, 192), Image.BICUBIC)
  expected = np.asarray(large) >= 128
  if mode == 'I;16':
    large = Image.fromarray(np.asarray(large).astype(np.uint16) * 257)
  large = large if mode == 'I;16' else large.convert(mode)
  path = tmp_path / ('x.tif' if mode == 'F' else 'x.png')
  large.save(path)
  seen = []
  np.testing.assert_array_equal(decode_mask(path, seen.append), expected)
  assert seen == [SOFT_MASK]


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'I;16'])
def test_masks_of_few_class_ids_are_defect_wherever_they_are_not_zero(tmp_path, mode):
  ids = np.zeros((16, 16), np.uint16)
  ids[2:4], ids[5:6], ids[9:12] = 1, 2, 5
  image = Image.fromarray(ids if mode == 'I;16' else ids.astype(np.uint8))
  if mode == 'P':
    image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
  elif mode == 'RGB':
    image = image.convert('RGB')
  image.save(tmp_path / 'x.png')
  seen = []
  np.testing.assert_array_equal(decode_mask(tmp_path / 'x.png', seen.append), ids > 0)
  assert seen == []


@pytest.mark.parametrize('mode', ['CMYK', 'YCbCr'])
def test_masks_in_which_black_is_not_zero(tmp_path, blob, mode):
  Image.fromarray(blob.astype(np.uint8) * 255).convert('RGB').convert(mode).save(
    tmp_path / 'x.tif'
  )
  np.testing.assert_array_equal(decode_mask(tmp_path / 'x.tif'), blob)
