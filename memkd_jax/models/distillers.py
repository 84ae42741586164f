"""Students with memories that imitate teacher features, one class per paradigm."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.errors import UserError
from memkd_jax.models import folding
from memkd_jax.models.bottleneck import Bottleneck
from memkd_jax.models.decoder import DecoderStage
from memkd_jax.models.layers import Conv, UpConv
from memkd_jax.models.memory import NRMemory
from memkd_jax.models.resnet import ARCHITECTURES, ResidualStage
from memkd_jax.ops.pooling import max_pool

FUSIONS = ('concat', 'add', 'replace')

Layer = TypeVar('Layer', Conv, UpConv)


class Slot(NamedTuple):
  """A place for a memory between two student stages (method, section 4).

  Attributes:
    memory: m of the memory M_m.
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
  """

  features: dict[int, jax.Array]
  embedding: jax.Array | None = None


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
    dtype: compute dtype.
    axis_name: the mapped axis over which batch statistics are averaged.
    folded: whether the parameters are those that `fold` gives.
  """

  # Every place for a memory, in running order.
  SLOTS: ClassVar[tuple[Slot, ...]]
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

  @classmethod
  def built_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Student stages that are distilled or on the way to one, in running order.

    Args:
      stages: the distilled stages.
    """
    return cls.RUNNING_ORDER[: 1 + max(cls.RUNNING_ORDER.index(k) for k in stages)]

  @classmethod
  def slots(cls, stages: tuple[int, ...], memories: tuple[int, ...]) -> tuple[Slot, ...]:
    """The slots whose memory is built, in running order.

    Args:
      stages: the distilled stages.
      memories: the memories switched on.
    """
    built = cls.built_stages(stages)
    return tuple(slot for slot in cls.SLOTS if slot.memory in memories and slot.stage in built)

  @property
  def folds_values(self) -> bool:
    """Whether `fold` leaves nothing to be recalled but the addressing weights."""
    return self.fusion in ('concat', 'replace')

  def fold(self, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Gives what this distiller takes for inference where its `folded` is True.

    Args:
      params: trained parameters.
      batch_stats: running statistics.

    Returns:
      Parameters without BatchNorms, float32 at least.
    """
    folded = folding.fold_batch_norm(params, batch_stats)
    if self.folds_values:
      for slot in self.slots(self.stages, self.memories):
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
      for slot in self.slots(self.stages, self.memories):
        behind = f'{self.STAGE_NAME}_stage{slot.stage}'
        values = params[f'memory_m{slot.memory}']['values']
        kept[behind] = folding.unfolding_of_recall(kept[behind], params[behind], values)
    return kept

  def unfold(
    self, folded: Mapping[str, Any], kept: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and running statistics that `fold` was given.

    Args:
      folded: what `fold` gave.
      kept: what `unfolding` gave.

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
      for slot in self.slots(self.stages, self.memories)
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
    memory_before = {slot.stage: slot.memory for slot in self.slots(self.stages, self.memories)}
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


class ReverseDistiller(Distiller):
  """MemKD, the reverse paradigm (method, section 2): features from their embedding.

  Bottleneck, memories and decoder; without memories this is RD, the baseline. M_3 acts
  on phi, M_2 on F_S^3, M_1 on F_S^2. Attributes are those of `Distiller`.
  """

  SLOTS = (
    Slot(memory=3, stage=3, target=4),
    Slot(memory=2, stage=2, target=3),
    Slot(memory=1, stage=1, target=2),
  )
  RUNNING_ORDER = (3, 2, 1)
  STAGE_NAME = 'student'

  def setup(self) -> None:
    arch = ARCHITECTURES[self.arch]
    conv, up_conv = self._partial(Conv), self._partial(UpConv)
    self.bottleneck = Bottleneck(arch, conv)
    self.student = {
      f'stage{k}': DecoderStage(arch, k, conv, up_conv) for k in self.built_stages(self.stages)
    }
    self.memory = self._build_memories()

  def __call__(
    self, images: jax.Array, features: tuple[jax.Array, ...], train: bool = False
  ) -> Distilled:
    """Reproduces the teacher's features of an image from their embedding.

    Args:
      images: not looked at; the forward paradigm takes them.
      features: teacher stages 1 to 3, [B, H_k, W_k, C_k].
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages, and the embedding.
    """
    embedding = self.bottleneck(features, train)
    return Distilled(self._run(embedding, train), embedding)

  def _run_stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
    return self.student[f'stage{stage}'](x, train)


class ForwardDistiller(Distiller):
  """MemMKD, the forward paradigm (method, section 3): the student sees the image.

  A residual network from scratch with memories behind its stages; without memories this
  is multiresolution distillation, the baseline. M_1 acts on F_S^1 and M_2 on F_S^2; each
  feeds the stage behind it. Attributes are those of `Distiller`, and:

  Attributes:
    student: the student, a key of `ARCHITECTURES`.
    projection: whether a 1x1 convolution brings student stages of other widths to
      the teacher's; what it gives is F_S^k, for the loss and the stage behind.
  """

  SLOTS = (Slot(memory=1, stage=2, target=1), Slot(memory=2, stage=3, target=2))
  RUNNING_ORDER = (1, 2, 3)
  STAGE_NAME = 'encoder'

  student: str = 'resnet50'
  projection: bool = False

  def setup(self) -> None:
    teacher, student = ARCHITECTURES[self.arch], ARCHITECTURES[self.student]
    conv = self._partial(Conv)
    built = self.built_stages(self.stages)
    self.stem = conv(student.planes, 7, 2)
    self.encoder = {
      f'stage{k}': ResidualStage(student, k, conv, stride=1 if k == 1 else 2) for k in built
    }
    self.project = {
      f'stage{k}': conv(teacher.channels(k), 1)
      for k in built
      if self.projection and student.channels(k) != teacher.channels(k)
    }
    self.memory = self._build_memories()

  def __call__(
    self, images: jax.Array, features: tuple[jax.Array, ...], train: bool = False
  ) -> Distilled:
    """Reproduces the teacher's features of an image from the image.

    Args:
      images: [B, H, W, 3], normalised.
      features: not looked at; the reverse paradigm takes them.
      train: whether batch statistics are used and updated.

    Returns:
      The student's features of the distilled stages.
    """
    return Distilled(self._run(max_pool(nn.relu(self.stem(images, train))), train))

  def _run_stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
    x = self.encoder[f'stage{stage}'](x, train)
    if f'stage{stage}' in self.project:
      x = self.project[f'stage{stage}'](x, train)
    return x


def check_pair(teacher: str, student: str, projection: bool) -> None:
  """Raises UserError where a student's stages are not as wide as its teacher's.

  Args:
    teacher: a key of `ARCHITECTURES`.
    student: a key of `ARCHITECTURES`.
    projection: whether the student's stages are brought to the teacher's widths.
  """
  widths = [
    tuple(ARCHITECTURES[arch].channels(k) for k in (1, 2, 3)) for arch in (teacher, student)
  ]
  if not projection and widths[0] != widths[1]:
    raise UserError(
      f'--config.model.student={student}: its stages have {widths[1]} channels and those of '
      f'the teacher {teacher} {widths[0]}; give a student of the same widths, or '
      '--config.model.projection=True.'
    )
