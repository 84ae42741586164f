"""Maps against loops and against scipy (method, section 7)."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from memkd_jax.scoring import anomaly_map


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
  matrix = anomaly_map.upsampling_matrix(size, 16, align_corners)
  expected = slow_upsample(image, 16, align_corners)
  np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-12)


def test_align_corners_is_not_what_jax_image_resize_does(rng):
  image = rng.normal(size=(4, 4)).astype(np.float32)
  resized = jax.image.resize(image, (16, 16), 'bilinear')
  half_pixel, aligned = (
    m @ image @ m.T for m in (anomaly_map.upsampling_matrix(4, 16, a) for a in (False, True))
  )
  np.testing.assert_allclose(half_pixel, resized, atol=1e-5)
  assert np.abs(aligned - resized).max() > 0.1


@pytest.mark.parametrize('sigma', [0, 0.5, 4.0, 7.3])
@pytest.mark.parametrize('size', [1, 5, 64])
def test_gaussian_matrix_is_scipys_filter(rng, size, sigma):
  image = rng.normal(size=(size, size))
  matrix = anomaly_map.gaussian_matrix(size, sigma)
  expected = ndimage.gaussian_filter(image, sigma)
  np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-12)


def test_the_border_is_reflected_and_not_mirrored(rng):
  image = rng.normal(size=(16, 16))
  matrix = anomaly_map.gaussian_matrix(16, 4.0)
  mirrored = ndimage.gaussian_filter(image, 4.0, mode='mirror')
  assert np.abs(matrix @ image @ matrix.T - mirrored).max() > 1e-3


@pytest.mark.parametrize('combine', ['sum', 'product'])
@pytest.mark.parametrize('align_corners', [True, False])
def test_anomaly_maps(rng, combine, align_corners):
  shapes = {1: (2, 8, 8, 3), 3: (2, 2, 2, 5)}
  teacher, student = (
    {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(2)
  )
  expected = np.empty((2, 32, 32))
  for image in range(2):
    stages = []
    for k in shapes:
      t, s = teacher[k][image], student[k][image]
      norms = np.linalg.norm(t, axis=-1) * np.linalg.norm(s, axis=-1)
      stages.append(slow_upsample(1 - (t * s).sum(-1) / norms, 32, align_corners))
    total = stages[0] + stages[1] if combine == 'sum' else stages[0] * stages[1]
    expected[image] = ndimage.gaussian_filter(total, 2.0)
  maps = jax.jit(
    lambda t, s: anomaly_map.anomaly_maps(
      t, s, 32, combine=combine, align_corners=align_corners, sigma=2.0
    )
  )(teacher, student)
  np.testing.assert_allclose(maps, expected, atol=1e-5)
  np.testing.assert_allclose(anomaly_map.image_scores(maps), expected.max((1, 2)), atol=1e-5)


def test_a_batch_of_one_is_smoothed_along_both_axes(rng):
  """A batch must give what its images give one by one."""
  t, s = rng.normal(size=(2, 3, 4, 4, 5)).astype(np.float32)
  together = anomaly_map.anomaly_maps({1: t}, {1: s}, 16)
  one = anomaly_map.anomaly_maps({1: t[:1]}, {1: s[:1]}, 16)
  np.testing.assert_allclose(together[:1], one, atol=1e-6)
