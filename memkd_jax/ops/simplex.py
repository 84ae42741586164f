"""Simplex noise (Perlin, 2001) in two dimensions, as a product with a constant matrix.

The plane is cut into triangles. Each of their corners has a random gradient, and gives to the
points near it a ramp along that gradient, which fades out. So for given points the noise is
linear in the gradients, and smooth: it looks like clouds, whose size is that of the triangles.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_SKEW = (np.sqrt(3) - 1) / 2  # from points to the grid of squares that the triangles become
_UNSKEW = (3 - np.sqrt(3)) / 6  # and back
_RADIUS = 0.5  # squared, beyond which a corner gives nothing


@functools.lru_cache(maxsize=16)
def simplex_matrix(size: tuple[int, int], cells: int) -> np.ndarray:
  """What the gradients of the corners give to the positions of a grid.

  Args:
    size: (height, width) in positions, which lie at the centres of equal squares.
    cells: triangle's edges, in skewed coordinates, that fit into the longer side; so noise of
      one number of cells looks alike on grids of any size.

  Returns:
    [height * width, 2 V] float64: for V corners the weights of their gradients' two components.
    The number of corners depends on the cells alone.
  """
  corners = _corners(cells)
  along = [(np.arange(length) + 0.5) / max(size) * cells for length in size]
  points = np.stack(np.meshgrid(*along, indexing='ij'), -1).reshape(-1, 1, 2)
  offsets = points - (corners - corners.sum(-1, keepdims=True) * _UNSKEW)
  fading = np.maximum(_RADIUS - np.sum(offsets**2, axis=-1, keepdims=True), 0) ** 4
  # Far corners fade out to nothing; a point's own triangle has all that are near.
  return (fading * offsets).reshape(len(points), -1)


def simplex_noise(
  key: jax.Array, size: tuple[int, int], cells: int, channels: int
) -> jax.Array:
  """Noise of some channels, each with gradients of its own.

  Args:
    key: JAX key by which the gradients are drawn.
    size: see `simplex_matrix`; with one key the noise of several sizes is that of one plane.
    cells: see `simplex_matrix`.
    channels: C, the number of channels.

  Returns:
    [height, width, C] float32, of mean 0 over the keys.
  """
  matrix = simplex_matrix(size, cells)
  angles = jax.random.uniform(key, (matrix.shape[1] // 2, channels), maxval=2 * np.pi)
  gradients = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
  flat = jnp.asarray(matrix, jnp.float32) @ gradients.reshape(-1, channels)
  return flat.reshape(*size, channels)


def _corners(cells: int) -> np.ndarray:
  """Whole numbers [V, 2], in skewed coordinates, of all corners near the square of `cells`."""
  highest = int(np.ceil(cells * (1 + 2 * _SKEW))) + 2
  grid = np.stack(np.meshgrid(*[np.arange(-2, highest)] * 2, indexing='ij'), -1)
  corners = grid.reshape(-1, 2)
  places = corners - corners.sum(-1, keepdims=True) * _UNSKEW
  near = ((places > -1) & (places < cells + 1)).all(-1)
  return corners[near]
