"""What both paradigms share: a student with memories that imitates teacher features."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models.folding import fold_batch_norm, fold_values
from memkd_jax.models.memory import NRMemory
from memkd_jax.models.resnet import ARCHITECTURES

FUSIONS = ('concat', 'add', 'replace')


class Distilled(NamedTuple):
  """What one pass through the student gives.

  Attributes:
    features: {k: F_S^k} for the distilled stages, [B, H_k, W_k, C_k].
    embedding: phi, [B, H_4, W_4, C_4], of the reverse paradigm; else None.
  """

  features: dict[int, jax.Array]
  embedding: jax.Array | None = None


class Distiller(nn.Module):
  """Student stages with memories between them; `setup` of a subclass builds them.

  Attributes:
    arch: the teacher, a key of `ARCHITECTURES`.
    stages: the distilled stages, of 1, 2, 3.
    memories: the memories switched on, of 1, 2, 3; one without a built stage
      behind it is not built.
    memory_items: L.
    temperature: of the addressing softmax.
    fusion: 'concat' of query and recall, their sum ('add'), or the recall alone
      ('replace').
    dtype: compute dtype.
    axis_name: the mapped axis over which batch statistics are averaged.
    folded: whether the parameters are those of `fold`.
  """

  # Which teacher stage the values of memory m imitate, less m (method, section 4);
  # the memory sits before the student stage that follows in running order.
  TARGET_OFFSET: ClassVar[int]
  # Of the student's stages.
  RUNNING_ORDER: ClassVar[tuple[int, int, int]]
  # Of their parameters, before the number of the stage.
  STAGE_NAME: ClassVar[str]

  arch: str
  stages: tuple[int, ...] = (1, 2, 3)
  memories: tuple[int, ...] = (1, 2, 3)
  memory_items: int = 50
  temperature: float = 1.0
  fusion: str = 'concat'
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None
  folded: bool = False

  @classmethod
  def built_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Student stages that are distilled or on the way to one, in running order."""
    return cls.RUNNING_ORDER[: 1 + max(cls.RUNNING_ORDER.index(k) for k in stages)]

  @classmethod
  def built_memories(
    cls, stages: tuple[int, ...], memories: tuple[int, ...]
  ) -> tuple[int, ...]:
    """Those memories behind which a stage is built, in running order.

    Args:
      stages: the distilled stages.
      memories: the memories switched on.
    """
    before = (k - 1 + cls.TARGET_OFFSET for k in cls.built_stages(stages))
    return tuple(m for m in before if m in memories)

  @property
  def folds_values(self) -> bool:
    """Whether `fold` leaves nothing to be recalled but the addressing weights."""
    return self.fusion in ('concat', 'replace')

  def fold(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """What this distiller takes for inference where its `folded` is True.

    Args:
      params: trained.
      batch_stats: running statistics.

    Returns:
      Parameters without BatchNorms, float32 at least.
    """
    folded = fold_batch_norm(params, batch_stats)
    if self.folds_values:
      for m in self.built_memories(self.stages, self.memories):
        behind = f'{self.STAGE_NAME}_stage{m + 1 - self.TARGET_OFFSET}'
        folded[behind] = fold_values(folded[behind], params[f'memory_m{m}']['values'])
    return folded

  def recall_by_values(self, targets: Mapping[int, jax.Array]) -> dict[int, jax.Array]:
    """Queries each memory by its values with its target, for L_NM.

    Args:
      targets: {m: features of memory m's width}, [B, H, W, C].

    Returns:
      {m: recalled normality}, of the targets' shapes.
    """
    return {m: self.memory[f'm{m}'].recall_by_values(f) for m, f in targets.items()}

  def _build_memories(self) -> dict[str, NRMemory]:
    """Memories as wide as the teacher's stages that they imitate."""
    arch = ARCHITECTURES[self.arch]
    return {
      f'm{m}': NRMemory(
        self.memory_items, arch.channels(m + self.TARGET_OFFSET), self.temperature, self.dtype
      )
      for m in self.built_memories(self.stages, self.memories)
    }

  def _with_normality(self, query: jax.Array, m: int) -> jax.Array:
    """What the stage behind memory m takes: the query itself where there is none."""
    if f'm{m}' not in self.memory:
      return query
    memory = self.memory[f'm{m}']
    if self.folded and self.folds_values:
      recalled = memory.address(query).astype(self.dtype)
    else:
      recalled = memory(query)
    if self.fusion == 'concat':
      return jnp.concatenate([query, recalled], axis=-1)
    if self.fusion == 'add':
      return query + recalled
    return recalled
