"""One-class bottleneck embedding (method, section 2.1; RD, section 3.3)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from memkd_jax.models.layers import ConvPartial
from memkd_jax.models.resnet import Architecture, ResidualStage


class Bottleneck(nn.Module):
  """Fuses teacher stages 1 to 3 and compresses them to the embedding phi.

  It always takes all three stages, whatever is distilled.

  Attributes:
    arch: the backbone, which gives block type and widths.
    conv: makes the convolutions, a `Conv` with some fields given.
  """

  arch: Architecture
  conv: ConvPartial

  @nn.compact
  def __call__(self, features: tuple[jax.Array, ...], train: bool = False) -> jax.Array:
    """Embeds.

    Args:
      features: teacher stages 1 to 3, [B, H_k, W_k, C_k].
      train: whether batch statistics are used and updated.

    Returns:
      phi, [B, H_4, W_4, C_4].
    """

    def halve(x: jax.Array, channels: int, name: str) -> jax.Array:
      return nn.relu(self.conv(channels, 3, 2, name=name)(x, train))

    stage1, stage2, stage3 = features[:3]
    c2, c3 = self.arch.channels(2), self.arch.channels(3)
    stage1 = halve(halve(stage1, c2, 'stage1_down1'), c3, 'stage1_down2')
    stage2 = halve(stage2, c3, 'stage2_down')
    x = jnp.concatenate([stage1, stage2, stage3.astype(stage1.dtype)], axis=-1)
    return ResidualStage(self.arch, 4, self.conv, stride=2, name='embed')(x, train)
