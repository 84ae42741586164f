"""The distillation family: MemKD, RD, MemMKD and their baseline.

A student is trained to give the teacher's features of normal images, with normality recall
memories between its stages; where it does not, the image is abnormal. How it is trained is
in `distillation_training`, which is imported where something is to be trained.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.errors import UserError
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.losses import add
from memkd_jax.models import memory_use
from memkd_jax.models.distiller import Distilled, Distiller
from memkd_jax.models.distillers import ForwardDistiller, ReverseDistiller, check_pair
from memkd_jax.ops.cosine import cosine_distances
from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.teachers.extractor import FeatureExtractor

if TYPE_CHECKING:
  from memkd_jax.methods.distillation_training import Trainer

# By paradigm, and whether memories are built.
_NAMES = {
  ('reverse', True): 'MemKD',
  ('reverse', False): 'RD',
  ('forward', True): 'MemMKD',
  ('forward', False): 'Multiresolution distillation',
}


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'Distillation':
  """Makes the method of a resolved config.

  Args:
    config: the run's config, as `methods.resolve` returns it.
    extractor: the frozen teacher, whose features the student imitates.
    devices: the devices that train.

  Raises:
    UserError: teacher and student do not fit together, or the devices do not divide a batch.
  """
  return Distillation(config, extractor, devices)


class Distillation(Method):
  """Student and memories, and how they are trained.

  Nothing here depends on a task, so all tasks share the compilation.

  Attributes:
    name, stages, diagnosed_stages, notes, warm_starts: see `Method`.
    extractor: the frozen teacher, whose features the student imitates.
    devices: the devices that train.
    slots: the memories that are built, see `models.distillers.Slot`.
    targets: {m: the teacher's stage that memory m imitates}, in running order.
    depth: the number of the teacher's stages that the memories' targets need.
    pictures: how many pictures of an object one student sees; see `fused` for others.
    distiller: student and memories, as they are trained.
  """

  warm_starts = True

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    model, train = config.model, config.train
    self.config = config
    self.extractor = extractor
    self.devices = devices
    together = config.parallel.axis == 'batch'
    if together:
      devices.check_divide(train.batch_size, 'train.batch_size')
    # Models that are older than the field lack it.
    self.pictures = len(config.data.inputs) if model.get('joint_bottleneck') else 1
    kind: type[Distiller] = ReverseDistiller
    options: dict[str, Any] = {'adapt': model.adapt_teacher, 'pictures': self.pictures}
    if model.paradigm == 'forward':
      check_pair(model.backbone, model.student, model.projection)
      kind = ForwardDistiller
      options = {'student': model.student, 'projection': model.projection}
    self.slots = kind.slots(model.stages, model.memories, model.memory_layout)
    self.targets = {slot.memory: slot.target for slot in self.slots}
    if self.slots and together:
      devices.check_divide(train.exemplars, 'train.exemplars')
    self.name = _NAMES[model.paradigm, bool(self.slots)]
    self.notes = [
      f'M_{m} is not built: no distilled stage lies behind it.'
      for m in sorted(set(model.memories) - self.targets.keys())
    ]
    self.depth = self._choose_m3_target()
    self.stages = (1, 2, 3)
    self.diagnosed_stages = tuple(range(4, self.depth + 1))
    self.distiller = kind(
      model.backbone,
      model.stages,
      tuple(self.targets),
      model.memory_items,
      model.temperature,
      model.fusion,
      extractor.dtype,
      AXIS if together else None,
      layout=model.memory_layout,
      **options,
    )
    self._folded = self.distiller.clone(folded=True)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Trains by gradient descent; resumes from the newest checkpoint."""
    return self.trainer.fit(task, images, folder, start)

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    trainer = self.trainer
    return trainer.train_step, trainer.step_shapes(*trainer.variable_shapes(canvas), canvas)

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """See `Method`."""
    return jax.eval_shape(self.distiller.fold, *self.trainer.variable_shapes(canvas))

  @functools.cached_property
  def trainer(self) -> 'Trainer':
    """What trains; built where something is to be trained."""
    from memkd_jax.methods.distillation_training import Trainer

    return Trainer(self)

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """1 - cos(F_T^k, F_S^k) of the distilled stages (method, section 7).

    With an adapted teacher the distance from its features is added.
    """
    distilled: Any = self._folded.apply(
      {'params': params}, self.extractor.normalize(images), features
    )
    return _maps(features, distilled)

  def diagnosed_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[dict[int, jax.Array], dict[str, Any]]:
    """`maps`, and how the memories are addressed: see `memory_use.per_position`."""
    if not self.slots:
      return self.maps(params, features, images), {}
    distilled, diagnosis = self.look_into_memories(params, features, images)
    return _maps(features, distilled), diagnosis

  def look_into_memories(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[Distilled, dict[str, dict[str, jax.Array]]]:
    """One pass, and how it used the memories; arguments as `diagnosed_maps`.

    Returns:
      (what the student gave, see `memory_use.per_position`).
    """
    variables = {'params': params}
    distilled, sown = self._folded.apply(
      variables, self.extractor.normalize(images), features, mutable=['intermediates']
    )
    targets = self.memory_targets(features, distilled.embedding)
    recalled: Any = self._folded.apply(variables, targets, method='recall_by_values')
    return distilled, memory_use.per_position(self.addressing(sown), targets, recalled)

  def memory_targets(
    self, features: tuple[jax.Array, ...], embedding: jax.Array | None
  ) -> dict[int, jax.Array]:
    """The target of each memory (method, section 4), {m: [N, H, W, C of that stage]}.

    Where the target's stage is not among the features it is the embedding of the training
    batch, into which no gradient flows.
    """
    available = numbered(features)
    fallback: Any = jax.lax.stop_gradient(embedding)
    return {m: available.get(k, fallback) for m, k in self.targets.items()}

  def addressing(self, variables: Any) -> dict[int, jax.Array]:
    """The weights with which a pass addressed its memories, {m: [B, H, W, L]}."""
    sown = variables['intermediates'] if self.targets else {}
    return {m: sown[f'memory_m{m}']['weights'][0] for m in self.targets}

  def _choose_m3_target(self) -> int:
    """The number of teacher stages that the memories' targets need."""
    target = self.config.model.m3_target
    if self.targets.get(3) != 4:
      return 3
    if target != 'embedding' and self.extractor.depth == 4:
      return 4
    if target == 'stage4':
      raise UserError(
        f'{self.config.model.teacher_weights} holds no stage 4, which '
        '--config.model.m3_target=stage4 needs; use embedding, or convert full weights.'
      )
    why = '' if target == 'embedding' else ": the teacher's weights hold no stage 4"
    self.notes.append(f'The target of M_3 is the embedding (model.m3_target=embedding){why}.')
    return 3


def _maps(features: tuple[jax.Array, ...], distilled: Distilled) -> dict[int, jax.Array]:
  return add(
    cosine_distances(numbered(features), distilled.features),
    cosine_distances(distilled.adapted, distilled.rebuilt),
  )


def numbered(features: tuple[jax.Array, ...]) -> dict[int, jax.Array]:
  """{k: stage k} of the stages from 1 on."""
  return dict(enumerate(features, start=1))
