"""A config made into modules, parameters and compiled steps, shared by all categories."""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from memkd_jax.config import DEMO_TEACHER_FILE, RANDOM_TEACHER
from memkd_jax.data.sampling import category_seed, exemplar_indices
from memkd_jax.errors import UserError
from memkd_jax.models.distiller import Distiller
from memkd_jax.models.forward import ForwardDistiller, check_pair
from memkd_jax.models.layers import param_dtype
from memkd_jax.models.memory_use import per_position
from memkd_jax.models.resnet import Teacher
from memkd_jax.models.reverse import ReverseDistiller
from memkd_jax.ops.normalization import normalize_images
from memkd_jax.runtime import hosts
from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.scoring.anomaly_map import anomaly_maps, image_scores
from memkd_jax.teachers import weights
from memkd_jax.training.feature_cache import FeatureCache, choose_place, compute_features
from memkd_jax.training.step import (
  TrainState,
  addressing,
  make_train_step,
  memory_targets,
  teacher_features,
)


class System:
  """Teacher, distiller, optimizer and the two compiled programs of a run.

  Nothing here depends on a category, so all categories share the compilation.

  Attributes:
    config: the resolved config.
    devices: that it runs on.
    memories: that are built, see `built_memories` of the distiller.
    running_order: in which the student's stages follow each other.
    notes: sentences that must stand beside the figures.
    step: see `training_step.make_train_step`; not mapped yet.
    train_step: `step`, pmapped; donates its state.
    training: a context within which a category takes its steps.
    teacher_step: pmapped `(teacher_params, images) -> features`, of all the stages
      that a step needs.
    score_step: pmapped `(variables, teacher_params, images) -> (maps, scores)`, with
      the `inference_variables` of a state.
    diagnose_step: pmapped likewise, see `memory_diagnostics.per_position`.
    teacher_params: replicated.
  """

  def __init__(self, config: ConfigDict, devices: Devices | None = None):
    """Loads the teacher and builds everything.

    Raises:
      UserError: the weights do not fit, or the devices do not divide a batch.
    """
    self.config = config
    self.devices = devices or Devices()
    model, train = config.model, config.train
    if model.dtype == 'float64' and not jax.config.read('jax_enable_x64'):
      raise UserError('--config.model.dtype=float64 needs JAX_ENABLE_X64=1 in the environment.')
    together = config.parallel.axis == 'batch'
    if together:
      self.devices.check_divide(train.batch_size, 'train.batch_size')
    kind: type[Distiller] = ReverseDistiller
    options: dict[str, Any] = {}
    if model.paradigm == 'forward':
      check_pair(model.backbone, model.student, model.projection)
      kind, options = (
        ForwardDistiller,
        {
          'student': model.student,
          'projection': model.projection,
        },
      )
    self.memories = kind.built_memories(model.stages, model.memories)
    self.running_order = kind.RUNNING_ORDER
    self._target_stages = {m: m + kind.TARGET_OFFSET for m in self.memories}
    if self.memories and together:
      self.devices.check_divide(train.exemplars, 'train.exemplars')
    self.notes: list[str] = []
    for m in sorted(set(model.memories) - set(self.memories)):
      self.notes.append(f'M_{m} is not built: no distilled stage lies behind it.')
    params = self._load_teacher()
    exemplar_stages = self._choose_m3_target(has_stage4='stage4' in params)
    dtype = jnp.dtype(model.dtype)
    self._teacher = Teacher(model.backbone, stages=3, dtype=dtype)
    self._exemplar_teacher = Teacher(model.backbone, stages=exemplar_stages, dtype=dtype)
    self._distiller = kind(
      model.backbone,
      model.stages,
      self.memories,
      model.memory_items,
      model.temperature,
      model.fusion,
      dtype,
      AXIS if together else None,
      **options,
    )
    self._folded = self._distiller.clone(folded=True)
    self._init = jax.jit(self._distiller.init)
    self._optimizer = optax.adam(train.learning_rate, b1=train.adam_b1, b2=train.adam_b2)
    self.teacher_params = self.devices.replicate(params)
    self.step = make_train_step(
      self._teacher,
      self._exemplar_teacher,
      self._distiller,
      self._optimizer,
      self._target_stages,
      kd=config.loss.kd,
      lambda_nm=config.loss.lambda_nm,
      lambda_orth=config.loss.lambda_orth,
    )
    self.training: Callable[[], AbstractContextManager] = nullcontext
    self._map()

  def moved_to(self, devices: Devices, teacher_params: Any) -> 'System':
    """The same system on other devices.

    Args:
      devices: to run on.
      teacher_params: replicated on them.
    """
    other = copy.copy(self)
    other.devices, other.teacher_params = devices, teacher_params
    other._map()
    return other

  def _map(self) -> None:
    self.train_step = self.devices.map(self.step, donate=[0])
    self.teacher_step = self.devices.map(self._exemplar_features)
    self.score_step = self.devices.map(self.score)
    self.diagnose_step = self.devices.map(self._diagnose)

  def init_state(self, category: str, seed: int, images: np.ndarray) -> TrainState:
    """The state before the first step, a tree of numpy arrays.

    Args:
      category: seeds the initialisation, together with the seed.
      seed: of the run.
      images: uint8 [N, S, S, 3], the training images, from which the memories
        are initialised where `model.memory_init` asks for it.
    """
    key = jax.random.key(category_seed(seed, category))
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    inputs = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(self._inputs, self.one_copy(), example),
    )
    variables = self._init(key, *inputs)
    if self.config.model.memory_init == 'exemplars' and self.memories:
      variables = variables | {
        'params': self._memories_from_exemplars(variables, category, seed, images)
      }
    # flax begins with float32 here whatever the dtype in which they go on.
    dtype = param_dtype(self._distiller.dtype)
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=jax.tree.map(lambda x: x.astype(dtype), variables['batch_stats']),
      opt_state=self._optimizer.init(variables['params']),
    )
    return hosts.broadcast_from_main(jax.tree.map(np.asarray, state))

  def inference_variables(self, state: TrainState) -> Any:
    """What scoring takes of a trained state, on every device."""
    return self.devices.replicate(self.folded_variables(state))

  def folded_variables(self, state: TrainState) -> Any:
    """What `score` takes of a trained state."""
    return {'params': self._distiller.fold(state.params, state.batch_stats)}

  def training_data(self, images: np.ndarray) -> FeatureCache:
    """What batches are drawn from, with the teacher's features where they fit.

    Args:
      images: uint8 [N, S, S, 3], the training images.
    """
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    shapes = jax.eval_shape(self._exemplar_features, self.one_copy(), example)
    size = (
      len(images)
      * sum(stage.size for stage in shapes)
      * jnp.dtype(self._teacher.dtype).itemsize
    )
    wanted = self.config.train.cache_features
    place = choose_place(wanted, size, *self.devices.free_memory())
    features = None
    if place == 'off':
      print("Note: the teacher's features are computed at every step.", flush=True)
    else:
      print(
        f"Note: the teacher's features are kept on the {place}: {size / 1e6:,.0f} MB.",
        flush=True,
      )
      features = compute_features(
        self.devices,
        self.teacher_step,
        self.teacher_params,
        images,
        self.config.train.batch_size,
      )
    return FeatureCache(self.devices, images, features, place)

  def exemplar_indices(self, category: str, seed: int, number: int, step: int) -> np.ndarray:
    """Which images are the exemplars of a step; see `data.order`."""
    train = self.config.train
    return exemplar_indices(
      seed,
      category,
      number,
      train.exemplars,
      step,
      train.batch_size,
      train.exemplar_resample,
    )

  def score(
    self, variables: Any, teacher_params: Any, images: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Anomaly maps and image scores: a pure function, on one device.

    Args:
      variables: of `folded_variables`.
      teacher_params: as `one_copy` gives them.
      images: uint8 [B, S, S, 3].

    Returns:
      (maps [B, S, S], scores [B]), float32, raw: neither clipped nor normalised.
    """
    inputs, features = self._inputs(teacher_params, images)
    distilled: Any = self._folded.apply(variables, inputs, features)
    options = self.config.anomaly_map
    maps = anomaly_maps(
      dict(enumerate(features, start=1)),
      distilled.features,
      images.shape[1],
      combine=options.combine,
      align_corners=options.align_corners,
      sigma=options.sigma,
    )
    return maps, image_scores(maps)

  def _diagnose(
    self, variables: Any, teacher_params: Any, images: jax.Array
  ) -> dict[str, dict[str, jax.Array]]:
    inputs = normalize_images(images, self._teacher.dtype)
    features: Any = self._exemplar_teacher.apply({'params': teacher_params}, inputs)
    distilled, sown = self._folded.apply(variables, inputs, features, mutable=['intermediates'])
    targets = memory_targets(features, distilled.embedding, self._target_stages)
    recalled: Any = self._folded.apply(variables, targets, method='recall_by_values')
    return per_position(addressing(sown, self.memories), targets, recalled)

  def _exemplar_features(self, teacher_params: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    return teacher_features(self._exemplar_teacher, teacher_params, images)

  def _inputs(
    self, teacher_params: Any, images: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What a distiller takes: the normalised images, and the teacher's stages 1 to 3."""
    inputs = normalize_images(images, self._teacher.dtype)
    features: Any = self._teacher.apply({'params': teacher_params}, inputs)
    return inputs, features

  @functools.cached_property
  def score_alone(self) -> Callable[[Any, ArrayLike], tuple[jax.Array, jax.Array]]:
    """`score` compiled for the first device alone: `(variables, images) -> (maps, scores)`.

    Compiled once for each number of images, whatever the number of models.
    """
    teacher_params = jax.device_put(self.one_copy(), self.devices.local[0])
    program = jax.jit(self.score)
    return lambda variables, images: program(variables, teacher_params, images)

  def one_copy(self) -> Any:
    """The teacher's parameters, as numpy."""
    return self.devices.unreplicate(self.teacher_params)

  def _memories_from_exemplars(
    self, variables: Any, category: str, seed: int, images: np.ndarray
  ) -> Any:
    """Draws keys and values from positions of the exemplars' target features."""
    exemplars = images[self.exemplar_indices(category, seed, len(images), 0)]
    # Without an axis name: this runs outside of the mapped step.
    distiller = self._distiller.clone(axis_name=None)

    @jax.jit
    def targets(teacher_params: Any, variables: Any) -> dict[int, jax.Array]:
      inputs = normalize_images(exemplars, self._teacher.dtype)
      features = teacher_features(self._exemplar_teacher, teacher_params, exemplars)
      distilled, _ = distiller.apply(
        variables, inputs, features, train=True, mutable=['batch_stats']
      )
      return memory_targets(features, distilled.embedding, self._target_stages)

    generator = np.random.default_rng(category_seed(seed, category))
    params = dict(variables['params'])
    for m, features in targets(self.one_copy(), variables).items():
      rows = np.asarray(features).reshape(-1, features.shape[-1])
      items = self.config.model.memory_items
      chosen = rows[generator.choice(len(rows), items, replace=items > len(rows))]
      chosen = chosen.astype(params[f'memory_m{m}']['keys'].dtype)
      params[f'memory_m{m}'] = {'keys': chosen, 'values': chosen.copy()}
    return params

  def _load_teacher(self) -> dict[str, Any]:
    model = self.config.model
    if model.teacher_weights == RANDOM_TEACHER:
      self.notes.append('The teacher is random, not pretrained: THESE FIGURES MEAN NOTHING.')
      params = weights.random_teacher(model.backbone)
    else:
      _, params = weights.load(model.teacher_weights, model.backbone)
      if model.teacher_weights == str(DEMO_TEACHER_FILE.absolute()):
        self.notes.append(
          'The teacher is the small one of the demo, trained on a few photographs: for other '
          'images take one of ImageNet.'
        )
    dtype = jnp.dtype(model.dtype)
    return jax.tree.map(lambda x: x.astype(dtype), params)

  def _choose_m3_target(self, has_stage4: bool) -> int:
    """Returns the number of teacher stages that the memories' targets need."""
    target = self.config.model.m3_target
    if 3 not in self.memories:
      return 3
    if target != 'embedding' and has_stage4:
      return 4
    if target == 'stage4':
      raise UserError(
        f'{self.config.model.teacher_weights} holds no stage 4, which '
        '--config.model.m3_target=stage4 needs; use embedding, or convert full weights.'
      )
    why = '' if target == 'embedding' else ": the teacher's weights hold no stage 4"
    self.notes.append(f'The target of M_3 is the embedding (model.m3_target=embedding){why}.')
    return 3
