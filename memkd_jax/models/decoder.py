"""The reversed residual stages of the student (method, section 2.2; RD, section 3.1)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models.layers import Conv, UpConv
from memkd_jax.models.resnet import Architecture


class DecoderBlock(nn.Module):
  """A residual block that may double the resolution.

  It does so by a 2x2 stride-2 transposed convolution on the shortcut and in
  place of the basic block's first 3x3 or the bottleneck block's middle 3x3.

  Attributes:
    arch: gives the block type and the widths.
    stage: 1 to 3, gives the channels.
    up: whether the resolution doubles.
    folded: see `layers.Conv`.
    dtype: compute dtype.
    axis_name: the mapped axis over which batch statistics are averaged.
  """

  arch: Architecture
  stage: int
  up: bool = False
  folded: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, H or 2H, W or 2W, C_stage]."""

    def conv(features: int, kernel_size: int, name: str) -> Conv:
      return Conv(features, kernel_size, 1, self.folded, self.dtype, self.axis_name, name=name)

    def spatial(features: int, name: str) -> Conv | UpConv:
      if self.up:
        return UpConv(features, self.folded, self.dtype, self.axis_name, name=name)
      return conv(features, 3, name)

    channels = self.arch.channels(self.stage)
    shortcut = x
    if self.up:
      shortcut = spatial(channels, 'shortcut')(x, train)
    if self.arch.block == 'basic':
      x = nn.relu(spatial(channels, 'conv1')(x, train))
      x = conv(channels, 3, 'conv2')(x, train)
    else:
      width = channels // self.arch.expansion * self.arch.width_factor
      x = nn.relu(conv(width, 1, 'conv1')(x, train))
      x = nn.relu(spatial(width, 'conv2')(x, train))
      x = conv(channels, 1, 'conv3')(x, train)
    return nn.relu(x + shortcut)


class DecoderStage(nn.Module):
  """One student stage; its output has the shape of the same teacher stage.

  RD's decoder lists the encoder's block counts in the encoder's own order, so
  the stage that mirrors teacher stage 3 has as many blocks as stage 1.

  Attributes are those of `DecoderBlock`.
  """

  arch: Architecture
  stage: int
  folded: bool = False
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> F_S^stage, [B, 2H, 2W, C_stage]."""
    for i in range(self.arch.blocks[3 - self.stage]):
      x = DecoderBlock(
        self.arch,
        self.stage,
        i == 0,
        self.folded,
        self.dtype,
        self.axis_name,
        name=f'block{i}',
      )(x, train)
    return x
