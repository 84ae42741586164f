"""The max pooling behind the stem."""

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array) -> jax.Array:
  """3x3 max pooling of stride 2 and padding 1, as in torchvision's ResNets.

  It is the maximum of shifted maps: XLA's windows are slower on CPUs, their gradient most,
  and converters to ONNX do not know them. The values are the same; a gradient is shared
  among equal maxima.

  Args:
    x: feature maps, [B, H, W, C]; not negative, as a ReLU leaves them, for the padding is 0.

  Returns:
    [B, ceil(H / 2), ceil(W / 2), C].
  """
  return _pool(_pool(x, 1), 2)


def _pool(x: jax.Array, axis: int) -> jax.Array:
  if x.shape[axis] % 2:
    x = _pad(x, axis, (0, 1))
  pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
  even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
  before = jax.lax.slice_in_dim(_pad(odd, axis, (1, 0)), 0, -1, axis=axis)
  return jnp.maximum(jnp.maximum(even, odd), before)


def _pad(x: jax.Array, axis: int, widths: tuple[int, int]) -> jax.Array:
  return jnp.pad(x, [widths if i == axis else (0, 0) for i in range(x.ndim)])
