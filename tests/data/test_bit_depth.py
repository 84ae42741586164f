"""Cameras of 10, 12 and 14 bits write files of 16 bits, and no header says so."""

import struct
import zlib

import numpy as np
import pytest
from bad_input.pictures import chunk
from ml_collections import ConfigDict
from PIL import Image

from memkd_jax.data import bit_depth
from memkd_jax.data.images import CLIPPED, SCALED, read_image, to_size
from memkd_jax.data.sample import GOOD, Sample

SIZE = 8


@pytest.fixture
def grey(rng):
  return rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


def of(*paths):
  return [Sample(path.name, {'rgb': path}, None, GOOD) for path in paths]


def save_color(pixels, path):
  """A PNG of 16 bits per colour, which Pillow does not write."""
  height, width, channels = pixels.shape
  kind = {3: 2, 4: 6}[channels]
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  header = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
  chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
  path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*c) for c in chunks))
  return path


@pytest.mark.parametrize(
  ('highest', 'bits'),
  [(1, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16)],
)
@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_the_fewest_bits_that_hold_all_training_images(tmp_path, grey, highest, bits, suffix):
  dark, bright, usual = (tmp_path / f'{name}.{suffix}' for name in ('dark', 'bright', 'usual'))
  Image.fromarray(np.full((SIZE, SIZE), highest // 2, np.uint16)).save(dark)
  Image.fromarray(np.full((SIZE, SIZE), highest, np.uint16)).save(bright)
  Image.fromarray(grey).save(usual)
  assert bit_depth.choose('auto', of(dark, bright, usual), 2) == bits
  assert bit_depth.choose('8', of(dark, bright, usual), 2) == 8


def test_images_of_8_bits_leave_it_at_16(tmp_path, grey):
  Image.fromarray(grey).save(tmp_path / 'a.png')
  (tmp_path / 'broken.png').write_bytes(b'')
  assert bit_depth.choose('auto', of(tmp_path / 'a.png', tmp_path / 'broken.png'), 2) == 16
  assert bit_depth.choose('auto', [], 2) == 16


@pytest.mark.parametrize('bits', [8, 10, 12, 14])
def test_the_range_of_the_camera_is_the_range_of_8_bits(tmp_path, grey, bits):
  highest = 2**bits - 1
  values = np.round(grey * (highest / 255)).astype(np.uint16)
  Image.fromarray(values).save(tmp_path / 'x.png')
  seen = []
  image, _ = read_image(tmp_path / 'x.png', (SIZE, SIZE), bits, seen.append)
  np.testing.assert_array_equal(image[..., 0], grey)
  np.testing.assert_array_equal(to_size(values, (SIZE, SIZE), bits), image)
  assert seen == [SCALED]


def test_16_bits_are_rounded_to_the_nearest():
  values = np.arange(2**16)
  expected = np.floor(values / 257 + 0.5)
  np.testing.assert_array_equal(bit_depth.to_8_bits(values, 16), expected)


def test_values_above_the_range_are_clipped_and_remarked(tmp_path):
  Image.fromarray(np.full((SIZE, SIZE), 5000, np.uint16)).save(tmp_path / 'x.png')
  seen = []
  assert (read_image(tmp_path / 'x.png', (SIZE, SIZE), 12, seen.append)[0] == 255).all()
  assert seen == [CLIPPED]


def test_8_bits_are_read_the_same_whatever_the_range(tmp_path, grey):
  Image.fromarray(grey).save(tmp_path / 'x.png')
  for bits in (8, 10, 16):
    np.testing.assert_array_equal(
      read_image(tmp_path / 'x.png', (SIZE, SIZE), bits)[0][..., 1], grey
    )


@pytest.mark.parametrize('channels', [3, 4])
def test_colours_of_12_bits_keep_all_of_them(tmp_path, rng, channels):
  expected = rng.integers(0, 256, (SIZE, SIZE, channels))
  expected[0, 0, 0] = 255
  values = np.round(expected * (4095 / 255)).astype(np.uint16)
  path = save_color(values, tmp_path / 'x.png')
  assert bit_depth.choose('auto', of(path), 2) == 12
  image, _ = read_image(path, (SIZE, SIZE), 12)
  np.testing.assert_array_equal(image, expected[..., :3])
  np.testing.assert_array_equal(read_image(path, (SIZE, SIZE))[0], values[..., :3] >> 8)


def test_the_number_found_is_what_a_model_keeps():
  config = ConfigDict({'data': {'bit_depth': 'auto'}})
  assert bit_depth.of_config(config) == 16
  assert bit_depth.of_config(bit_depth.in_config(config, 12)) == 12
  assert config.data.bit_depth == 'auto'
  assert bit_depth.of_config(ConfigDict({'data': {}})) == 16  # of an earlier release
