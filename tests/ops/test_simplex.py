"""Simplex noise against the algorithm that goes from triangle to triangle."""

import math

import jax
import numpy as np
import pytest

from memkd_jax.ops import simplex


def noise_at(x, y, gradients):
  """Perlin's simplex noise as it is written for shaders (Gustavson, 2005), unscaled.

  Args:
    x: of the point.
    y: of the point.
    gradients: {(i, j): (g_x, g_y)}, of each corner.
  """
  skewed = (x + y) * 0.5 * (math.sqrt(3) - 1)
  i, j = math.floor(x + skewed), math.floor(y + skewed)
  g = (3 - math.sqrt(3)) / 6
  x0, y0 = x - (i - (i + j) * g), y - (j - (i + j) * g)
  i1, j1 = (1, 0) if x0 > y0 else (0, 1)
  corners = [
    ((i, j), (x0, y0)),
    ((i + i1, j + j1), (x0 - i1 + g, y0 - j1 + g)),
    ((i + 1, j + 1), (x0 - 1 + 2 * g, y0 - 1 + 2 * g)),
  ]
  total = 0.0
  for corner, (dx, dy) in corners:
    t = 0.5 - dx * dx - dy * dy
    if t > 0:
      gx, gy = gradients[corner]
      total += t**4 * (gx * dx + gy * dy)
  return total


@pytest.mark.parametrize(('size', 'cells'), [((12, 12), 3), ((5, 8), 4), ((1, 1), 1)])
def test_the_matrix_is_the_algorithm(rng, size, cells):
  corners = [tuple(map(int, corner)) for corner in simplex._corners(cells)]
  vectors = rng.normal(size=(len(corners), 2))
  gradients = dict(zip(corners, vectors.tolist(), strict=True))
  found = simplex.simplex_matrix(size, cells) @ vectors.ravel()
  rows, columns = ([(k + 0.5) / max(size) * cells for k in range(side)] for side in size)
  expected = [noise_at(x, y, gradients) for x in rows for y in columns]
  np.testing.assert_allclose(found, expected, atol=1e-12)
  assert np.abs(found).max() > 1e-4


def test_gradients_are_unit_vectors_and_channels_are_independent():
  key = jax.random.key(3)
  noise = jax.jit(simplex.simplex_noise, static_argnums=(1, 2, 3))(key, (16, 16), 4, 3)
  matrix = simplex.simplex_matrix((16, 16), 4)
  angles = np.asarray(jax.random.uniform(key, (matrix.shape[1] // 2, 3), maxval=2 * np.pi))
  for c in range(3):
    gradients = np.stack([np.cos(angles[:, c]), np.sin(angles[:, c])], -1)
    expected = (matrix @ gradients.ravel()).reshape(16, 16)
    np.testing.assert_allclose(noise[..., c], expected, atol=1e-6)
  correlations = np.corrcoef(np.asarray(noise).reshape(-1, 3).T)
  assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.5


def test_a_finer_grid_shows_the_same_plane():
  """Each position of the coarse grid lies in the middle of three by three fine ones."""
  coarse, fine = (simplex.simplex_noise(jax.random.key(0), (n, n), 4, 2) for n in (8, 24))
  np.testing.assert_allclose(fine[1::3, 1::3], coarse, atol=1e-6)
