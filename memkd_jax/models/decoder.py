"""The reversed residual stages of the student (method, section 2.2; RD, section 3.1)."""

import jax
from flax import linen as nn

from memkd_jax.models.layers import Conv, ConvPartial, UpConv, UpConvPartial
from memkd_jax.models.resnet import Architecture


class DecoderBlock(nn.Module):
  """A residual block that may double the resolution.

  It does so by a 2x2 stride-2 transposed convolution on the shortcut and in
  place of the basic block's first 3x3 or the bottleneck block's middle 3x3.

  Attributes:
    arch: gives the block type and the widths.
    stage: 1 to 3, gives the channels.
    conv: makes the convolutions, a `Conv` with some fields given.
    up_conv: makes the transposed convolutions, an `UpConv` with some fields given.
    up: whether the resolution doubles.
  """

  arch: Architecture
  stage: int
  conv: ConvPartial
  up_conv: UpConvPartial
  up: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, H or 2H, W or 2W, C_stage]."""

    def spatial(features: int, name: str) -> Conv | UpConv:
      if self.up:
        return self.up_conv(features, name=name)
      return self.conv(features, 3, name=name)

    channels = self.arch.channels(self.stage)
    shortcut = x
    if self.up:
      shortcut = spatial(channels, 'shortcut')(x, train)
    if self.arch.block == 'basic':
      x = nn.relu(spatial(channels, 'conv1')(x, train))
      x = self.conv(channels, 3, name='conv2')(x, train)
    else:
      width = channels // self.arch.expansion * self.arch.width_factor
      x = nn.relu(self.conv(width, 1, name='conv1')(x, train))
      x = nn.relu(spatial(width, 'conv2')(x, train))
      x = self.conv(channels, 1, name='conv3')(x, train)
    return nn.relu(x + shortcut)


class DecoderStage(nn.Module):
  """One student stage; its output has the shape of the same teacher stage.

  RD's decoder lists the encoder's block counts in the encoder's own order, so
  the stage that mirrors teacher stage 3 has as many blocks as stage 1.

  Attributes are those of `DecoderBlock`.
  """

  arch: Architecture
  stage: int
  conv: ConvPartial
  up_conv: UpConvPartial

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> F_S^stage, [B, 2H, 2W, C_stage]."""
    for i in range(self.arch.blocks[3 - self.stage]):
      block = DecoderBlock(
        self.arch, self.stage, self.conv, self.up_conv, up=i == 0, name=f'block{i}'
      )
      x = block(x, train)
    return x
