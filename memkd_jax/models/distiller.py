"""What a student with memories is that imitates teacher features, in either paradigm."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models import folding
from memkd_jax.models.layers import Conv, UpConv
from memkd_jax.models.memory import NRMemory
from memkd_jax.models.resnet import ARCHITECTURES

FUSIONS = ('concat', 'add', 'replace')
LAYOUTS = ('before', 'aligned')

Layer = TypeVar('Layer', Conv, UpConv)


class Slot(NamedTuple):
  """A place for a memory between two student stages (method, section 4).

  Attributes:
    memory: the number m of the memory M_m.
    stage: the student stage behind it, which takes the query and what is recalled for it.
    target: the teacher stage that its values imitate, which is as wide as the query.
  """

  memory: int
  stage: int
  target: int


class Distilled(NamedTuple):
  """What one pass through the student gives.

  Attributes:
    features: {k: F_S^k} for the distilled stages, [B, H_k, W_k, C_k].
    embedding: phi, [B, H_4, W_4, C_4], from the reverse paradigm; else None.
    adapted: {k: F_A^k}, the adapted teacher's features of the distilled stages, into which no
      gradient flows; empty where the teacher is not adapted.
    rebuilt: {k: what the student gives for the adapted features}, of the same shapes.
  """

  features: dict[int, jax.Array]
  embedding: jax.Array | None
  adapted: dict[int, jax.Array]
  rebuilt: dict[int, jax.Array]


class Distiller(nn.Module):
  """Student stages with memories between them; `setup` of a subclass builds them.

  Attributes:
    arch: the teacher, a key of `ARCHITECTURES`.
    stages: the distilled stages, a choice of 1, 2 and 3.
    memories: the memories switched on, a choice of 1, 2 and 3; one without a built stage
      behind it is not built.
    memory_items: L, the number of key-value pairs of each memory.
    temperature: divides the cosines before the addressing softmax.
    fusion: 'concat' of query and recall, their sum ('add'), or the recall alone
      ('replace').
    dtype: the dtype that is computed in.
    axis_name: the mapped axis over which batch statistics are averaged.
    folded: whether the parameters are those that `fold` gives.
    layout: where the memories sit, a key of `SLOTS`.
  """

  # Every place for a memory by layout, in running order.
  SLOTS: ClassVar[Mapping[str, tuple[Slot, ...]]]
  # The student's stages, as they follow each other.
  RUNNING_ORDER: ClassVar[tuple[int, int, int]]
  # The names of their parameters, up to the stage's number.
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
  layout: str = 'before'

  @classmethod
  def built_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Student stages that are distilled or on the way to one, in running order.

    Args:
      stages: the distilled stages, a choice of 1, 2 and 3.
    """
    return cls.RUNNING_ORDER[: 1 + max(cls.RUNNING_ORDER.index(k) for k in stages)]

  @classmethod
  def slots(
    cls, stages: tuple[int, ...], memories: tuple[int, ...], layout: str = 'before'
  ) -> tuple[Slot, ...]:
    """The slots whose memory is built, in running order.

    Args:
      stages: the distilled stages, a choice of 1, 2 and 3.
      memories: the memories switched on, a choice of 1, 2 and 3.
      layout: where the memories sit, a key of `SLOTS`.
    """
    built = cls.built_stages(stages)
    return tuple(
      slot for slot in cls.SLOTS[layout] if slot.memory in memories and slot.stage in built
    )

  @property
  def built_slots(self) -> tuple[Slot, ...]:
    """`slots` of this distiller."""
    return self.slots(self.stages, self.memories, self.layout)

  @property
  def folds_values(self) -> bool:
    """Whether `fold` leaves nothing to be recalled but the addressing weights."""
    return self.fusion in ('concat', 'replace')

  def fold(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Gives what this distiller takes for inference where its `folded` is True.

    Args:
      params: trained parameters, nested dicts of arrays.
      batch_stats: running means and variances of the BatchNorms, nested dicts of arrays.

    Returns:
      Parameters without BatchNorms, float32 at least.
    """
    folded = folding.fold_batch_norm(params, batch_stats)
    if self.folds_values:
      for slot in self.built_slots:
        behind = f'{self.STAGE_NAME}_stage{slot.stage}'
        values = params[f'memory_m{slot.memory}']['values']
        folded[behind] = folding.fold_values(folded[behind], values)
    return folded

  def unfolding(
    self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
  ) -> dict[str, Any]:
    """What `fold` loses, and `unfold` takes; arguments as `fold`."""
    kept = folding.unfolding(params, batch_stats)
    if self.folds_values:
      for slot in self.built_slots:
        behind = f'{self.STAGE_NAME}_stage{slot.stage}'
        values = params[f'memory_m{slot.memory}']['values']
        kept[behind] = folding.unfolding_of_recall(kept[behind], params[behind], values)
    return kept

  def unfold(
    self, folded: Mapping[str, Any], kept: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and running statistics that `fold` was given.

    Args:
      folded: parameters without BatchNorms, as `fold` gives them.
      kept: what `unfolding` gave of the same parameters.

    Returns:
      (params, batch_stats), equal to a unit in the last place.
    """
    return folding.unfold(folded, kept, self.memory_items)

  def recall_by_values(self, targets: Mapping[int, jax.Array]) -> dict[int, jax.Array]:
    """Queries each memory by its values with its target, for L_NM.

    Args:
      targets: {m: features as wide as the items of memory m}, [B, H, W, C].

    Returns:
      {m: recalled normality}, of the targets' shapes.
    """
    return {m: self.memory[f'm{m}'].recall_by_values(f) for m, f in targets.items()}

  def _partial(self, layer: type[Layer]) -> Callable[..., Layer]:
    """A layer's class with what all layers of this student share."""
    return functools.partial(
      layer, folded=self.folded, dtype=self.dtype, axis_name=self.axis_name
    )

  def _build_memories(self) -> dict[str, NRMemory]:
    """Memories as wide as the teacher's stages that they imitate."""
    arch = ARCHITECTURES[self.arch]
    return {
      f'm{slot.memory}': NRMemory(
        self.memory_items, arch.channels(slot.target), self.temperature, self.dtype
      )
      for slot in self.built_slots
    }

  def _run_stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
    """One student stage: x -> F_S^stage."""
    raise NotImplementedError

  def _run(self, x: jax.Array, train: bool) -> dict[int, jax.Array]:
    """Runs stages and memories in turn.

    Args:
      x: what the first stage or the memory before it takes, [B, H, W, C].
      train: whether batch statistics are used and updated.

    Returns:
      {k: F_S^k} for the distilled stages.
    """
    memory_before = {slot.stage: slot.memory for slot in self.built_slots}
    outputs = {}
    for stage in self.built_stages(self.stages):
      if stage in memory_before:
        x = self._fuse(x, self.memory[f'm{memory_before[stage]}'])
      x = self._run_stage(stage, x, train)
      if stage in self.stages:
        outputs[stage] = x
    return outputs

  def _fuse(self, query: jax.Array, memory: NRMemory) -> jax.Array:
    """Query and recall as the stage behind the memory takes them."""
    if self.folded and self.folds_values:
      recalled = memory.address(query).astype(self.dtype)
    else:
      recalled = memory(query)
    if self.fusion == 'concat':
      return jnp.concatenate([query, recalled], axis=-1)
    if self.fusion == 'add':
      return query + recalled
    return recalled
