"""Anomaly maps and image scores (method, section 7)."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from memkd_jax.ops.resampling import gaussian_matrix, resample, upsample

IMAGE_SCORES = ('max', 'top')
_TOP = 0.01  # the share of a map's positions of which 'top' is the mean
_HAIR = 1e-4  # by which halves lie above what float32 makes of them


def combine_maps(
  maps: Mapping[int, jax.Array],
  size: tuple[int, int],
  *,
  combine: str = 'sum',
  align_corners: bool = True,
  sigma: float = 4.0,
) -> jax.Array:
  """A = gaussian(combine_k upsample(map_k)); pure and jittable.

  Args:
    maps: {k: distances [B, H_k, W_k]}, combined in this order.
    size: (height, width) of the result, those of the model's input, in pixels.
    combine: 'sum', 'product' or 'max' of the upsampled maps.
    align_corners: rule of the bilinear upsampling, see `resampling.upsampling_matrix`.
    sigma: standard deviation of the Gaussian, in pixels of the result.

  Returns:
    [B, H, W] of the maps' dtype.
  """
  operation = {'sum': jnp.add, 'product': jnp.multiply, 'max': jnp.maximum}[combine]
  upsampled = [upsample(x, size, align_corners) for x in maps.values()]
  smoothing = (gaussian_matrix(length, sigma) for length in size)
  return resample(functools.reduce(operation, upsampled), *smoothing)


def image_scores(maps: jax.Array) -> jax.Array:
  """The highest value of each map: [B, H, W] -> [B]."""
  return jnp.max(maps, axis=(1, 2))


def top_scores(maps: jax.Array, seen: jax.Array | None = None) -> jax.Array:
  """The mean of the highest hundredth of each map, of one value at least: [B, H, W] -> [B].

  It hangs on no single position, where the highest value of a noisy map does.

  Args:
    maps: [B, H, W], -inf where nothing was looked at.
    seen: bool [B, H, W], where something was, of which the hundredth is taken. Everywhere if
      None.
  """
  flat = maps.reshape(maps.shape[0], -1)
  number = max(1, round(_TOP * flat.shape[1]))
  highest, _ = jax.lax.top_k(flat, number)
  if seen is None:
    return jnp.mean(highest, axis=1)
  # Rounded by cutting off, since converted formats have no rounding that all runtimes know, and
  # OpenVINO divides whole numbers as others.
  share = _TOP * jnp.sum(seen.astype(jnp.float32), axis=(1, 2))
  counted = jnp.clip((share + 0.5 + _HAIR).astype(jnp.int32), 1, number)[:, None]
  counts = np.arange(number) < counted
  return jnp.sum(jnp.where(counts, highest, 0), axis=1) / counted[:, 0]


def seen_positions(seen: jax.Array | np.ndarray, size: tuple[int, ...]) -> jax.Array:
  """Positions of a feature map that cover any pixel that counts.

  Args:
    seen: bool [B, H, W], which pixels count.
    size: (height, width) of the feature map in positions, divisors of H and W.

  Returns:
    bool [B, height, width].
  """
  batch, *lengths = seen.shape
  rows, columns = (length // parts for length, parts in zip(lengths, size, strict=True))
  blocks = jnp.asarray(seen, jnp.int32).reshape(batch, size[0], rows, size[1], columns)
  return jnp.max(blocks, axis=(2, 4)) > 0
