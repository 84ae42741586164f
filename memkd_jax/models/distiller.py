"""MemKD assembled: teacher features in, student features out (method, section 2)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models.bottleneck import Bottleneck
from memkd_jax.models.decoder import DecoderStage
from memkd_jax.models.memory import NRMemory
from memkd_jax.models.resnet import ARCHITECTURES

FUSIONS = ('concat', 'add', 'replace')


class Distilled(NamedTuple):
  """What one pass through the student gives.

  Attributes:
    features: {k: F_S^k} for the distilled stages, [B, H_k, W_k, C_k].
    embedding: phi, [B, H_4, W_4, C_4].
  """

  features: dict[int, jax.Array]
  embedding: jax.Array


def built_stages(stages: tuple[int, ...]) -> tuple[int, ...]:
  """Student stages that are distilled or on the way to one, in running order."""
  return tuple(range(3, min(stages) - 1, -1))


def built_memories(stages: tuple[int, ...], memories: tuple[int, ...]) -> tuple[int, ...]:
  """Those memories whose student stage is built; M_k sits before stage k."""
  return tuple(m for m in built_stages(stages) if m in memories)


class ReverseDistiller(nn.Module):
  """Bottleneck, memories and decoder of the reverse paradigm.

  Without memories this is RD, the baseline.

  Attributes:
    arch: the backbone, a key of `ARCHITECTURES`.
    stages: the distilled stages, of 1, 2, 3.
    memories: the memories switched on, of 1, 2, 3. M_3 acts on phi, M_2 on
      F_S^3, M_1 on F_S^2; a memory before a stage that is not built is not built.
    memory_items: L.
    temperature: of the addressing softmax.
    fusion: 'concat' of query and recall, their sum ('add'), or the recall alone
      ('replace').
    dtype: compute dtype.
    axis_name: the mapped axis over which batch statistics are averaged.
  """

  arch: str
  stages: tuple[int, ...] = (1, 2, 3)
  memories: tuple[int, ...] = (1, 2, 3)
  memory_items: int = 50
  temperature: float = 1.0
  fusion: str = 'concat'
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  def setup(self) -> None:
    arch = ARCHITECTURES[self.arch]
    self.bottleneck = Bottleneck(arch, self.dtype, self.axis_name)
    self.student = {
      f'stage{k}': DecoderStage(arch, k, self.dtype, self.axis_name)
      for k in built_stages(self.stages)
    }
    self.memory = {
      f'm{m}': NRMemory(self.memory_items, arch.channels(m + 1), self.temperature, self.dtype)
      for m in built_memories(self.stages, self.memories)
    }

  def __call__(self, features: tuple[jax.Array, ...], train: bool = False) -> Distilled:
    """Reproduces the teacher's features of an image from their embedding.

    Args:
      features: teacher stages 1 to 3, [B, H_k, W_k, C_k].
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages, and the embedding.
    """
    embedding = self.bottleneck(features, train)
    x, outputs = embedding, {}
    for k in built_stages(self.stages):
      x = self.student[f'stage{k}'](self._with_normality(x, k), train)
      if k in self.stages:
        outputs[k] = x
    return Distilled(outputs, embedding)

  def recall_by_values(self, targets: Mapping[int, jax.Array]) -> dict[int, jax.Array]:
    """Queries each memory by its values with its target, for L_NM.

    Args:
      targets: {m: features of memory m's width}, [B, H, W, C].

    Returns:
      {m: recalled normality}, of the targets' shapes.
    """
    return {m: self.memory[f'm{m}'].recall_by_values(f) for m, f in targets.items()}

  def _with_normality(self, query: jax.Array, m: int) -> jax.Array:
    if f'm{m}' not in self.memory:
      return query
    recalled = self.memory[f'm{m}'](query)
    if self.fusion == 'concat':
      return jnp.concatenate([query, recalled], axis=-1)
    if self.fusion == 'add':
      return query + recalled
    return recalled
