"""Upsampling and smoothing of maps.

Both are linear and separable, so both are products with small constant matrices: exact,
fast on every device, and with the border rules that the baseline's code has (torch's
bilinear, scipy's 'reflect').
"""

import jax
import jax.numpy as jnp
import numpy as np


def upsampling_matrix(size: int, target: int, align_corners: bool) -> np.ndarray:
  """Bilinear interpolation of `size` samples to `target` samples, as a matrix.

  Args:
    size: number of samples before.
    target: number of samples after.
    align_corners: True maps the first and last samples onto each other (RD);
      False puts samples at pixel centres and repeats the border, as
      torch.nn.functional.interpolate does.

  Returns:
    [target, size] float64; its rows sum to 1.
  """
  if align_corners:
    position = np.linspace(0.0, size - 1, target)
  else:
    position = (np.arange(target) + 0.5) * size / target - 0.5
  position = np.clip(position, 0, size - 1)
  low = np.minimum(np.floor(position).astype(int), max(size - 2, 0))
  high = np.minimum(low + 1, size - 1)
  fraction = position - low
  matrix = np.zeros((target, size))
  rows = np.arange(target)
  np.add.at(matrix, (rows, low), 1.0 - fraction)
  np.add.at(matrix, (rows, high), fraction)
  return matrix


def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> np.ndarray:
  """scipy.ndimage.gaussian_filter1d with mode 'reflect', as a matrix.

  Args:
    size: number of samples, before and after.
    sigma: standard deviation in samples; 0 smooths nothing.
    truncate: radius of the kernel in standard deviations.

  Returns:
    [size, size] float64; its rows sum to 1.
  """
  if sigma == 0:
    return np.eye(size)
  radius = int(truncate * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-0.5 * (offsets / sigma) ** 2)
  weights /= weights.sum()
  # 'reflect' repeats the edge sample (d c b a | a b c d | d c b a), with period
  # 2 * size, so that a kernel wider than the image is reflected repeatedly.
  source = (np.arange(size)[:, None] + offsets) % (2 * size)
  source = np.where(source < size, source, 2 * size - 1 - source)
  matrix = np.zeros((size, size))
  np.add.at(matrix, (np.arange(size)[:, None], source), weights)
  return matrix


def resample(maps: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
  """Applies matrices of this module along both axes of maps.

  Args:
    maps: maps of any kind, floating [B, H, W].
    rows: matrix by which rows are resampled, [S, H].
    columns: matrix by which columns are resampled, [T, W].

  Returns:
    [B, S, T] of the maps' dtype.
  """
  # Two products, for one einsum of three is exported to ONNX as such, where OpenVINO
  # multiplies the two constants first: S T H W numbers. The axis of the result comes last.
  for matrix in (rows, columns):
    constant = jnp.asarray(matrix, maps.dtype)
    maps = jnp.tensordot(maps, constant, (1, 1), precision='highest')
  return maps


def upsample(maps: jax.Array, size: tuple[int, int], align_corners: bool) -> jax.Array:
  """Maps [B, H, W] at another (height, width); see `upsampling_matrix`."""
  return resample(maps, *_matrices(maps.shape[1:3], size, align_corners))


def upsample_features(
  features: jax.Array, size: tuple[int, int], align_corners: bool
) -> jax.Array:
  """Features [B, H, W, C] at another (height, width); see `upsampling_matrix`."""
  return resample_features(features, *_matrices(features.shape[1:3], size, align_corners))


def _matrices(
  before: tuple[int, ...], after: tuple[int, int], align_corners: bool
) -> list[np.ndarray]:
  pairs = zip(before, after, strict=True)
  return [upsampling_matrix(length, target, align_corners) for length, target in pairs]


def resample_features(features: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
  """Applies matrices of this module along both axes of feature maps.

  Args:
    features: feature maps, floating [B, H, W, C].
    rows: matrix by which rows are resampled, [S, H].
    columns: matrix by which columns are resampled, [T, W].

  Returns:
    [B, S, T, C] of the features' dtype.
  """
  along_rows, along_columns = (jnp.asarray(x, features.dtype) for x in (rows, columns))
  found = jnp.einsum('ij,bjkc->bikc', along_rows, features, precision='highest')
  return jnp.einsum('lk,bikc->bilc', along_columns, found, precision='highest')
