"""The pictures of an object on one canvas."""

import numpy as np
import pytest
import tifffile
from benchmark_layouts import LAYOUTS
from PIL import Image

from memkd_jax.data import clouds, modalities
from memkd_jax.data.benchmarks import eyecandies, mvtec_3d
from memkd_jax.data.framing import Framing, seen_of
from memkd_jax.data.images import read_image
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError

ALL = ('rgb', 'depth', 'normals')


@pytest.fixture
def bagel(tmp_path):
  LAYOUTS['mvtec_3d'](tmp_path)
  return tmp_path


@pytest.fixture
def candy(tmp_path):
  LAYOUTS['eyecandies'](tmp_path)
  return tmp_path


def read(sample, inputs, size=(32, 32), **options):
  framing = Framing(size, inputs=inputs, depth_range=(-0.01, 0.03), **options)
  return modalities.read_sample(sample, framing, 16, lambda _: None)


def test_each_picture_has_four_channels(bagel):
  sample = mvtec_3d.list_samples(bagel, 'bagel', 'test', ALL)[0]
  canvas, size = read(sample, ALL)
  assert (canvas.shape, canvas.dtype, size) == ((32, 32, 12), np.uint8, (32, 32))
  np.testing.assert_array_equal(canvas[..., :3], read_image(sample.image, (32, 32))[0])
  assert (canvas[..., 3] == 255).all()
  points = tifffile.imread(sample.inputs['xyz'])
  surface = clouds.surface(points)
  grey = np.rint(255 * np.clip((surface.heights + 0.01) / 0.04, 0, 1))
  np.testing.assert_array_equal(canvas[..., 4:7], np.repeat(grey[..., None], 3, -1))
  np.testing.assert_array_equal(canvas[..., 7] > 0, surface.valid)
  np.testing.assert_array_equal(canvas[..., 8:11], np.rint((surface.normals + 1) / 2 * 255))
  np.testing.assert_array_equal(canvas[..., 11], canvas[..., 7])
  assert 0 < surface.valid.mean() < 1
  # What counts of any picture is what counts of the object.
  assert seen_of(canvas).all()
  of_depth, _ = read(sample, ('depth',))
  np.testing.assert_array_equal(of_depth, canvas[..., 4:8])
  np.testing.assert_array_equal(seen_of(of_depth), surface.valid)


def test_a_pixel_counts_that_covers_any_reading(bagel):
  sample = mvtec_3d.list_samples(bagel, 'bagel', 'train', ALL)[1]
  small, _ = read(sample, ('normals',), (16, 8))
  valid = clouds.surface(tifffile.imread(sample.inputs['xyz'])).valid
  np.testing.assert_array_equal(seen_of(small), valid.reshape(16, 2, 8, 4).any((1, 3)))


def test_a_region_holds_for_all_pictures(bagel):
  sample = mvtec_3d.list_samples(bagel, 'bagel', 'train', ALL)[0]
  region = np.zeros((32, 32), bool)
  region[:16] = True
  canvas, _ = read(sample, ALL, region=region)
  assert not canvas[16:, :, 3::4].any() and canvas[:16, :, 3].all()
  fitted, _ = read(sample, ALL, (32, 64), resize='fit')
  assert not fitted[:, :16, 3::4].any() and fitted[:, 16:48, 3].all()


def test_eyecandies_brings_files_of_its_own(candy):
  sample = eyecandies.list_samples(candy, 'CandyCane', 'test', ALL)[1]
  assert set(sample.inputs) == {*ALL, 'depth_info'}
  canvas, _ = read(sample, ALL)
  np.testing.assert_array_equal(
    canvas[..., 8:11], read_image(sample.inputs['normals'], (32, 32))[0]
  )
  assert canvas[..., 3::4].all()
  assert np.ptp(canvas[..., 4]) > 100
  assert set(eyecandies.list_samples(candy, 'CandyCane', 'test')[1].inputs) == {'rgb'}
  alone = eyecandies.list_samples(candy, 'CandyCane', 'test', ('normals',))[1]
  assert set(alone.inputs) == {'rgb', 'normals'}
  np.testing.assert_array_equal(read(alone, ('normals',))[0], canvas[..., 8:])


def test_the_range_of_depth_is_that_of_the_training_images(bagel):
  samples = mvtec_3d.list_samples(bagel, 'bagel', 'train', ALL)
  low, high = modalities.choose_depth_range(ALL, 'auto', samples, 2)
  found = []
  for sample in samples:
    surface = clouds.surface(tifffile.imread(sample.inputs['xyz']))
    found.append(np.quantile(surface.heights[surface.valid], (0.001, 0.999)))
  lowest, highest = np.min(found), np.max(found)
  assert (low, high) == pytest.approx(
    (lowest - 0.1 * (highest - lowest), highest + 0.1 * (highest - lowest))
  )
  assert 0.015 < highest < 0.025  # the box is 2 cm high
  assert modalities.choose_depth_range(ALL, (0.0, 2), samples, 2) == (0, 2)
  assert modalities.choose_depth_range(('rgb', 'normals'), 'auto', samples, 2) is None
  assert modalities.choose_depth_range(ALL, 'auto', (), 2) is None


def test_missing_and_odd_files_are_named(bagel):
  cloud = bagel / 'bagel' / 'train' / 'good' / 'xyz' / '003.tiff'
  framing = Framing((32, 32), inputs=ALL, depth_range=(0.0, 1.0))

  def message():
    with pytest.raises(UserError) as error:
      load_split(mvtec_3d.list_samples(bagel, 'bagel', 'train', ALL), framing, 2)
    return str(error.value)

  points = tifffile.imread(cloud)
  tifffile.imwrite(cloud, points[:, :20], photometric='rgb')
  image = bagel / 'bagel' / 'train' / 'good' / 'rgb' / '003.png'
  assert message() == (
    f'{cloud} is 20x32 pixels but {image} is 32x32; all pictures of an object must be of one '
    'size.'
  )
  tifffile.imwrite(cloud, np.zeros_like(points), photometric='rgb')
  assert message() == f'{cloud}: no point of it was read; leave the object out.'
  cloud.unlink()
  assert message() == (
    f'There is no point cloud {cloud}, which belongs to {image}; extract it, or look at the '
    'photographs alone with --config.data.inputs=rgb.'
  )


def test_missing_files_of_eyecandies_are_named(candy):
  file = candy / 'CandyCane' / 'train' / 'data' / '002_info_depth.yaml'
  file.unlink()
  with pytest.raises(UserError, match=f'There is no {file}, which belongs to 002_image_0.png'):
    eyecandies.list_samples(candy, 'CandyCane', 'train', ALL)
  assert len(eyecandies.list_samples(candy, 'CandyCane', 'train', ('rgb', 'normals'))) == 9


def test_an_object_is_known_by_its_photograph(bagel):
  sample = mvtec_3d.list_samples(bagel, 'bagel', 'test', ALL)[2]
  framing = Framing((32, 32), inputs=ALL, depth_range=(-0.01, 0.03))
  found, _ = modalities.read_object(sample.image, framing, 16, lambda _: None)
  np.testing.assert_array_equal(found, read(sample, ALL)[0])
  assert modalities.is_photograph(sample.image)
  assert not modalities.is_photograph(sample.inputs['xyz'])
  Image.new('RGB', (32, 32)).save(bagel / 'alone.png')
  with pytest.raises(UserError, match=r'expects xyz/NAME.tiff'):
    modalities.read_object(bagel / 'alone.png', framing, 16, lambda _: None)


def test_a_photograph_alone_is_read_as_ever(bagel):
  sample = mvtec_3d.list_samples(bagel, 'bagel', 'test')[2]
  assert set(sample.inputs) == {'rgb'}
  np.testing.assert_array_equal(
    read(sample, ('rgb',))[0], read_image(sample.image, (32, 32))[0]
  )
  with pytest.raises(UserError, match='has neither a point cloud'):
    read(sample, ('rgb', 'depth'))
