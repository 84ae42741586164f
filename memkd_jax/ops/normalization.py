"""From uint8 pixels to what the ImageNet teacher expects, on the device."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_images(images: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
  """(x / 255 - mean) / std per channel.

  Args:
    images: uint8 [B, H, W, 3], RGB; of a fourth channel nothing is taken.
    dtype: floating dtype of the result; the arithmetic is float32 at least.

  Returns:
    [B, H, W, 3] of `dtype`.
  """
  compute = jnp.promote_types(dtype, jnp.float32)
  mean, std = jnp.asarray(IMAGENET_MEAN, compute), jnp.asarray(IMAGENET_STD, compute)
  return ((images[..., :3].astype(compute) / 255.0 - mean) / std).astype(dtype)
