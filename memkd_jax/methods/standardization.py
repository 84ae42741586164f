"""Values in units of the training images: how far from their mean, in deviations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memkd_jax.scoring.anomaly_map import seen_positions


def moments(features: jax.Array, images: jax.Array | None = None) -> dict[str, jax.Array]:
  """Mean and variance of each image's channels over its positions, [B, H, W, C] -> [B, C].

  Args:
    features: feature maps, floating [B, H, W, C].
    images: uint8 [B, S, T, channels], of which a fourth one tells which positions count.
  """
  features = features.astype(jnp.float32)
  if images is not None and images.shape[-1] == 4:
    seen = seen_positions(images[..., 3] > 0, features.shape[1:3])[..., None]
    number = jnp.maximum(jnp.sum(seen, (1, 2)), 1)
    mean = jnp.sum(jnp.where(seen, features, 0), (1, 2)) / number
    deviations = jnp.where(seen, features - mean[:, None, None], 0)
    return {'mean': mean, 'variance': jnp.sum(deviations**2, (1, 2)) / number}
  return {'mean': jnp.mean(features, (1, 2)), 'variance': jnp.var(features, (1, 2))}


def over_all_images(parts: Any) -> Any:
  """Means and deviations over all images, from the moments of each.

  Args:
    parts: trees of `moments`, one for each batch.

  Returns:
    The tree with {'mean': [C], 'deviation': [C]} in their places, float32. A deviation of 0 is
    given as 1, so that a channel that never changes can be divided by it.
  """

  def is_moments(tree: Any) -> bool:
    return 'variance' in tree and not isinstance(tree['variance'], dict)

  def combine(*found: Any) -> dict[str, np.ndarray]:
    means, variances = (
      np.concatenate([part[name] for part in found]).astype(np.float64)
      for name in ('mean', 'variance')
    )
    deviation = np.sqrt(variances.mean(0) + means.var(0))
    deviation[deviation == 0] = 1
    return {
      'mean': means.mean(0).astype(np.float32),
      'deviation': deviation.astype(np.float32),
    }

  return jax.tree.map(combine, *parts, is_leaf=is_moments)


def standardize(values: jax.Array, statistics: Any) -> jax.Array:
  """(x - mean) / deviation, float32 at least.

  Args:
    values: features of the channels, [..., C], or [...] where the statistics are of one
      channel.
    statistics: mean and deviation of each channel, {'mean': [C], 'deviation': [C]}.
  """
  values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
  return (values - statistics['mean']) / statistics['deviation']
