"""The two convolutions that every network here is made of."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.ops.convolution import convolution

# Kaiming normal, fan-out, as RD initialises its convolutions (method, section 2).
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


def param_dtype(dtype: DTypeLike) -> jnp.dtype:
  """Parameters and statistics are float32 at least, whatever the compute dtype."""
  return jnp.promote_types(dtype, jnp.float32)


def batch_norm(train: bool, dtype: DTypeLike, axis_name: str | None) -> nn.BatchNorm:
  """A BatchNorm named 'norm' with the method's constants (method, section 6)."""
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=BATCH_NORM_MOMENTUM,
    epsilon=BATCH_NORM_EPSILON,
    dtype=dtype,
    param_dtype=param_dtype(dtype),
    axis_name=axis_name,
    name='norm',
  )


class Conv(nn.Module):
  """A convolution with explicit padding `kernel_size // 2` and its normalisation.

  'SAME' padding differs from torch's at stride 2, so the padding is explicit.

  Attributes:
    features: number of output channels.
    kernel_size: side of the square kernel.
    stride: step in both directions.
    folded: True where the BatchNorm is folded into kernel and bias, as the frozen
      teacher's and that of a trained student are; False for a kernel without bias
      followed by a BatchNorm.
    dtype: the dtype that is computed in.
    axis_name: the mapped axis over which batch statistics are averaged.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  folded: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
    pad = self.kernel_size // 2
    x = nn.Conv(
      self.features,
      (self.kernel_size, self.kernel_size),
      self.stride,
      padding=((pad, pad), (pad, pad)),
      use_bias=self.folded,
      dtype=self.dtype,
      param_dtype=param_dtype(self.dtype),
      kernel_init=kaiming_normal,
      conv_general_dilated=convolution,
      name='conv',
    )(x)
    if self.folded:
      return x
    return batch_norm(train, self.dtype, self.axis_name)(x)


class UpConv(nn.Module):
  """2x2 transposed convolution of stride 2, then BatchNorm: doubles the resolution.

  At stride 2 the 2x2 patches do not overlap, so the operation is one matrix
  product to 4 * features channels and a depth-to-space reshape. XLA:CPU
  computes the gradient of that over twenty times faster than that of
  `nn.ConvTranspose`, to which it is equal.

  Attributes:
    features: number of output channels.
    folded: see `Conv`.
    dtype: the dtype that is computed in.
    axis_name: the mapped axis over which batch statistics are averaged.
  """

  features: int
  folded: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, features]."""
    # torch's default for ConvTranspose2d, Kaiming uniform with a = sqrt(5),
    # whose fan-in it takes from the output side: 4 * features.
    bound = 1.0 / math.sqrt(4 * self.features)

    def uniform(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = self.param(
      'kernel', uniform, (x.shape[-1], 2, 2, self.features), param_dtype(self.dtype)
    )
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    batch, height, width, channels = x.shape
    x = x @ kernel.reshape(channels, -1)
    x = x.reshape(batch, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, 2 * height, 2 * width, self.features)
    if self.folded:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), kernel.dtype)
      return x + bias.astype(self.dtype)
    return batch_norm(train, self.dtype, self.axis_name)(x)


# The classes with `folded`, `dtype` and `axis_name` given, as a whole network shares them.
ConvPartial = Callable[..., Conv]
UpConvPartial = Callable[..., UpConv]
