"""Residual networks with torchvision's layout: the architectures and the teacher."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models.layers import Conv, ConvPartial
from memkd_jax.ops.pooling import max_pool


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What tells one residual network from another.

  Attributes:
    block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1).
    blocks: residual blocks of stages 1 to 4.
    planes: torchvision's planes of stage 1, doubled at each stage.
    width_factor: factor on the middle convolution of a bottleneck block.
  """

  block: Literal['basic', 'bottleneck']
  blocks: tuple[int, int, int, int]
  planes: int = 64
  width_factor: int = 1

  @property
  def expansion(self) -> int:
    return 4 if self.block == 'bottleneck' else 1

  def channels(self, stage: int) -> int:
    """C_k: channels of the output of stage 1 to 4."""
    return self.planes * 2 ** (stage - 1) * self.expansion


ARCHITECTURES = {
  'resnet18': Architecture('basic', (2, 2, 2, 2)),
  'resnet34': Architecture('basic', (3, 4, 6, 3)),
  'resnet50': Architecture('bottleneck', (3, 4, 6, 3)),
  'wide_resnet50_2': Architecture('bottleneck', (3, 4, 6, 3), width_factor=2),
  # For tests and smoke runs; nobody has ImageNet weights of these two.
  'tiny_basic': Architecture('basic', (1, 1, 1, 1), planes=4),
  'tiny_bottleneck': Architecture('bottleneck', (1, 1, 1, 1), planes=4, width_factor=2),
}

# What users choose from.
BACKBONES = tuple(name for name in ARCHITECTURES if not name.startswith('tiny'))


class ResidualBlock(nn.Module):
  """A basic or a bottleneck block; the stride sits on a 3x3, as in torchvision.

  Attributes:
    arch: gives the block type and the widths.
    stage: 1 to 4, gives the channels.
    conv: makes the convolutions, a `Conv` with some fields given.
    stride: step of the block in both directions, 1 or 2.
  """

  arch: Architecture
  stage: int
  conv: ConvPartial
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, C_stage]."""
    channels = self.arch.channels(self.stage)
    shortcut = x
    if self.stride != 1 or x.shape[-1] != channels:
      shortcut = self.conv(channels, 1, self.stride, name='shortcut')(x, train)
    if self.arch.block == 'basic':
      x = nn.relu(self.conv(channels, 3, self.stride, name='conv1')(x, train))
      x = self.conv(channels, 3, name='conv2')(x, train)
    else:
      width = channels // self.arch.expansion * self.arch.width_factor
      x = nn.relu(self.conv(width, 1, name='conv1')(x, train))
      x = nn.relu(self.conv(width, 3, self.stride, name='conv2')(x, train))
      x = self.conv(channels, 1, name='conv3')(x, train)
    return nn.relu(x + shortcut)


class ResidualStage(nn.Module):
  """`arch.blocks[stage - 1]` residual blocks, the first with the stride.

  Attributes are those of `ResidualBlock`.
  """

  arch: Architecture
  stage: int
  conv: ConvPartial
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, C_stage]."""
    for i in range(self.arch.blocks[self.stage - 1]):
      stride = self.stride if i == 0 else 1
      block = ResidualBlock(self.arch, self.stage, self.conv, stride, name=f'block{i}')
      x = block(x, train)
    return x


class Teacher(nn.Module):
  """A torchvision-exact ImageNet ResNet with its BatchNorm folded (method, section 1).

  Attributes:
    arch: name of the network, a key of `ARCHITECTURES`.
    stages: stages to compute, 3 or 4. None takes stage 4 where the parameters
      hold it, so a caller that needs three should ask for three.
    dtype: the dtype that is computed in.
  """

  arch: str
  stages: int | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
    """Runs the network.

    Args:
      images: [B, H, W, 3] float, normalised with ImageNet's mean and deviation.

    Returns:
      F_T^1, ..., F_T^stages, each after its last ReLU: [B, H_k, W_k, C_k].
    """
    arch = ARCHITECTURES[self.arch]
    conv = functools.partial(Conv, folded=True, dtype=self.dtype)
    x = max_pool(nn.relu(conv(arch.planes, 7, 2, name='stem')(images)))
    outputs = []
    for stage in range(1, 1 + self._number_of_stages()):
      stride = 1 if stage == 1 else 2
      x = ResidualStage(arch, stage, conv, stride, name=f'stage{stage}')(x)
      outputs.append(x)
    return tuple(outputs)

  def _number_of_stages(self) -> int:
    if self.stages is not None:
      return self.stages
    if self.is_initializing():
      return 4
    return 4 if 'stage4' in self.variables['params'] else 3
