"""What disturbs a student in training, so that it does not learn to copy what it sees.

All is drawn for each image from a seed of its own: it does not depend on how many devices share
a batch.
"""

import functools

import jax
import jax.numpy as jnp

from memkd_jax.ops.simplex import simplex_noise

NOISES = ('none', 'gaussian', 'simplex')
# Clouds in a row of an image: of the noise, and of the regions where it is.
_CELLS, _CELLS_OF_MASK = 8, 4


def dropout(x: jax.Array, rate: float, seeds: jax.Array) -> jax.Array:
  """Sets a share of all values to zero, and scales up the others so that their mean stays.

  Args:
    x: feature maps, floating [B, H, W, C].
    rate: the probability of a zero, in [0, 1).
    seeds: a seed for each image, uint32 [B].

  Returns:
    Of the shape and dtype of x.
  """
  draw = functools.partial(jax.random.bernoulli, p=1 - rate, shape=x.shape[1:])
  kept = jax.vmap(lambda seed: draw(jax.random.fold_in(jax.random.key(seed), 0)))(seeds)
  return jnp.where(kept, x / (1 - rate), 0)


def feature_noise(
  features: tuple[jax.Array, ...], seeds: jax.Array, kind: str, scale: float, share: float
) -> tuple[jax.Array, ...]:
  """Adds noise to some regions of an image's features, the same regions in all stages.

  At a position p of them f'(p) = f(p) + scale rms(f(p)) n(p), where rms is the root of the mean
  square over the channels, and n has a mean square of 1 over each image and stage. The regions
  are where a cloud of simplex noise is highest. What is added is a constant for gradients.

  Args:
    features: the teacher's stages, [B, H_k, W_k, C_k].
    seeds: a seed for each image, uint32 [B].
    kind: what n is: 'gaussian', independent at each position and channel; or 'simplex', clouds
      of about an eighth of the image, independent in each channel.
    scale: root mean square of the noise as a multiple of the features'.
    share: share of the positions that get noise, in [0, 1].

  Returns:
    The same shapes and dtypes.
  """

  def of_image(seed: jax.Array, *stages: jax.Array) -> tuple[jax.Array, ...]:
    key = jax.random.key(seed)
    of_mask = jax.random.fold_in(key, 1)
    noisy = []
    for k, f in enumerate(stages, start=1):
      height, width, channels = f.shape
      of_stage = jax.random.fold_in(key, 1 + k)
      if kind == 'gaussian':
        noise = jax.random.normal(of_stage, f.shape)
      else:
        noise = simplex_noise(of_stage, (height, width), _CELLS, channels)
      noise = noise * jax.lax.rsqrt(jnp.mean(noise**2))
      rms = jnp.sqrt(jnp.mean(jnp.square(f.astype(jnp.float32)), axis=-1, keepdims=True))
      # Where all channels are 0 the root's slope is infinite.
      rms = jax.lax.stop_gradient(rms)
      added = scale * rms * noise * _regions(of_mask, (height, width), share)
      noisy.append(f + added.astype(f.dtype))
    return tuple(noisy)

  return jax.vmap(of_image)(seeds, *features)


def _regions(key: jax.Array, size: tuple[int, int], share: float) -> jax.Array:
  """Where a cloud is highest, as 0 and 1: [height, width, 1]."""
  cloud = simplex_noise(key, size, _CELLS_OF_MASK, 1)
  without = round((1 - share) * cloud.size)
  if without == cloud.size:
    return jnp.zeros_like(cloud)
  return (cloud >= jnp.sort(cloud, axis=None)[without]).astype(cloud.dtype)
