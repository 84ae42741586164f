"""Matrices against loops and against scipy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from memkd_jax.ops.resampling import gaussian_matrix, resample, upsampling_matrix


def slow_upsample(image, target, align_corners):
  """Bilinear interpolation as torch documents it, one pixel at a time."""
  size = image.shape[0]

  def source(i):
    if align_corners:
      return i * (size - 1) / (target - 1)
    return max((i + 0.5) * size / target - 0.5, 0.0)

  out = np.empty((target, target))
  for i in range(target):
    for j in range(target):
      y, x = source(i), source(j)
      y0, x0 = int(y), int(x)
      y1, x1 = min(y0 + 1, size - 1), min(x0 + 1, size - 1)
      dy, dx = y - y0, x - x0
      top = (1 - dx) * image[y0, x0] + dx * image[y0, x1]
      bottom = (1 - dx) * image[y1, x0] + dx * image[y1, x1]
      out[i, j] = (1 - dy) * top + dy * bottom
  return out


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('size', [1, 2, 4, 5])
def test_upsampling_matrix(rng, size, align_corners):
  image = rng.normal(size=(size, size))
  matrix = upsampling_matrix(size, 16, align_corners)
  expected = slow_upsample(image, 16, align_corners)
  np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-12)


def test_align_corners_is_not_what_jax_image_resize_does(rng):
  image = rng.normal(size=(4, 4)).astype(np.float32)
  resized = jax.image.resize(image, (16, 16), 'bilinear')
  half_pixel, aligned = (
    m @ image @ m.T for m in (upsampling_matrix(4, 16, a) for a in (False, True))
  )
  np.testing.assert_allclose(half_pixel, resized, atol=1e-5)
  assert np.abs(aligned - resized).max() > 0.1


@pytest.mark.parametrize('sigma', [0, 0.5, 4.0, 7.3])
@pytest.mark.parametrize('size', [1, 5, 64])
def test_gaussian_matrix_is_scipys_filter(rng, size, sigma):
  image = rng.normal(size=(size, size))
  matrix = gaussian_matrix(size, sigma)
  expected = ndimage.gaussian_filter(image, sigma)
  np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-12)


def test_the_border_is_reflected_and_not_mirrored(rng):
  image = rng.normal(size=(16, 16))
  matrix = gaussian_matrix(16, 4.0)
  mirrored = ndimage.gaussian_filter(image, 4.0, mode='mirror')
  assert np.abs(matrix @ image @ matrix.T - mirrored).max() > 1e-3


def test_a_map_is_resampled_along_both_axes_and_alone(rng):
  """A batch must give what its images give one by one."""
  maps, rows, columns = (rng.normal(size=size) for size in ((3, 4, 5), (6, 4), (7, 5)))
  together = resample(jax.numpy.asarray(maps, 'float32'), rows, columns)
  assert together.dtype == np.float32
  for image, expected in zip(maps, together, strict=True):
    np.testing.assert_allclose(rows @ image @ columns.T, expected, atol=1e-5)
