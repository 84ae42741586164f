"""How the distillation family is trained (method, sections 4 to 6)."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memkd_jax.data.sampling import (
  batch_indices,
  category_seed,
  exemplar_indices,
  number_of_steps,
)
from memkd_jax.errors import UserError
from memkd_jax.methods import losses
from memkd_jax.methods.base import Fitted, Start, Task
from memkd_jax.methods.distillation import Distillation, numbered
from memkd_jax.models import memory_use
from memkd_jax.models.layers import param_dtype
from memkd_jax.runtime import hosts
from memkd_jax.training import loop, nan_guard
from memkd_jax.training.feature_cache import FeatureCache, build_cache, compute_features
from memkd_jax.training.step import Batch, TrainState, make_train_step


class Trainer:
  """Optimizer, compiled steps and data of one method; all its tasks share them."""

  def __init__(self, method: Distillation):
    """Compiles nothing yet."""
    self._method = method
    self._config, self._extractor, self._devices = (
      method.config,
      method.extractor,
      method.devices,
    )
    self._losses = losses.loss_table(method.config.loss)
    self._kept: tuple[str, FeatureCache] | None = None

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Trains by gradient descent; resumes from the newest checkpoint."""
    cached = functools.cache(lambda: self.feature_cache(images))  # computed once, if at all
    state, _ = self.train(task, images, folder, cached, start)
    params = self.fold(state)
    usage = self._memory_usage(params, cached()) if self._method.slots else {}
    kept = self._method.distiller.unfolding(state.params, state.batch_stats)
    return Fitted(params, usage, jax.tree.map(np.asarray, kept))

  def train(
    self,
    task: Task,
    images: np.ndarray,
    folder: Path,
    cached: Callable[[], FeatureCache] | None = None,
    start: Start | None = None,
  ) -> tuple[TrainState, dict[str, float]]:
    """Takes the steps that are left; see `training.loop.train`.

    Args:
      task: the name and the seed, by which data order and initialisation are drawn.
      images: uint8 [N, S, S, 3], the normal training images.
      folder: the task's folder.
      cached: gives the images with the teacher's features, where the caller keeps them.
      start: the model that it goes on from, if any.

    Raises:
      UserError: the images fill no batch.
    """
    train, name, seed = self._config.train, task.name, task.seed
    running_order = self._method.distiller.RUNNING_ORDER
    steps = number_of_steps(train.epochs, len(images), train.batch_size)
    if steps == 0:
      raise UserError(
        f'{name}: {len(images)} images in {train.epochs} epochs fill no batch of '
        f'{train.batch_size}; raise --config.train.epochs or lower --config.train.batch_size.'
      )

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
      """Which images are the batch of a step, and which its exemplars."""
      batch = batch_indices(seed, name, len(images), train.batch_size, number)
      return batch, self._exemplars(task, len(images), number)

    def prepare() -> loop.Draw:
      cache = cached() if cached else self.feature_cache(images)
      return lambda number: self.inputs(cache, *draw(number))

    def check(number: int, terms: Mapping[str, float]) -> None:
      nan_guard.check(
        name,
        number,
        terms,
        lambda names: losses.causal_order(self._losses, names, running_order),
        lambda at: self._bad_teacher_stage(images[np.concatenate(draw(at - 1))]),
      )

    return loop.train(
      self.init_state(task, images, start),
      self.train_step,
      prepare,
      steps,
      folder,
      devices=self._devices,
      metadata={
        'train_images': len(images),
        'train_sha256': hashlib.sha256(images.data).hexdigest(),
      }
      | ({} if start is None else {loop.WARM_START: start.sha256}),
      options=loop.LoopOptions(
        name=name,
        batch_size=train.batch_size,
        checkpoint_steps=train.checkpoint_steps,
        log_steps=train.log_steps,
        tensorboard=train.tensorboard,
        profile=train.profile,
        check=check,
        order=functools.partial(losses.log_order, self._losses),
      ),
    )

  def init_state(
    self, task: Task, images: np.ndarray, start: Start | None = None
  ) -> TrainState:
    """The state before the first step, a tree of numpy arrays.

    Args:
      task: the name and the seed, which seed the initialisation.
      images: uint8 [N, S, S, 3], the training images, from which the memories
        are initialised where `model.memory_init` asks for it.
      start: a trained model, whose parameters and statistics take the place of random
        ones; the optimizer begins anew, since no model keeps its state.

    Raises:
      UserError: the model has other parameters than the method.
    """
    side = images.shape[1]
    image = jnp.zeros((1, side, side, 3), self._extractor.dtype)
    features = tuple(jnp.zeros(f.shape, f.dtype) for f in self._extractor.shapes(side))
    key = jax.random.key(category_seed(task.seed, task.name))
    if start is not None:
      shapes = jax.eval_shape(self._method.distiller.init, key, image, features)
      variables = self._unfold(start, shapes)
    else:
      variables = self._init(key, image, features)
    from_exemplars = self._config.model.memory_init == 'exemplars' and self._method.slots
    if start is None and from_exemplars:
      variables = variables | {'params': self._memories_from_exemplars(variables, task, images)}
    # flax begins with float32 here whatever the dtype in which they go on.
    dtype = param_dtype(self._extractor.dtype)
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=jax.tree.map(lambda x: x.astype(dtype), variables['batch_stats']),
      opt_state=self._optimizer.init(variables['params']),
    )
    return hosts.broadcast_from_main(jax.tree.map(np.asarray, state))

  def fold(self, state: TrainState) -> dict[str, Any]:
    """What `maps` takes of a trained state: BatchNorms and values folded, numpy arrays."""
    folded = self._method.distiller.fold(state.params, state.batch_stats)
    return jax.tree.map(np.asarray, folded)

  def _unfold(self, start: Start, shapes: Any) -> dict[str, Any]:
    """The variables of a trained model, which have to have these shapes."""
    params, batch_stats = self._method.distiller.unfold(start.params, start.unfolding)
    found = {'params': params, 'batch_stats': batch_stats}
    if jax.tree.map(np.shape, found) != jax.tree.map(np.shape, dict(shapes)):
      raise UserError(
        f'{start.folder} holds other parameters than this model has; train without '
        '--warm-start.'
      )
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), found, dict(shapes))

  def feature_cache(self, images: np.ndarray) -> FeatureCache:
    """The training images with the teacher's features; several seeds share them.

    Args:
      images: uint8 [N, S, S, 3].
    """
    digest = hashlib.sha256(images.data).hexdigest()
    if self._kept is not None and self._kept[0] == digest:
      return self._kept[1]
    self._kept = None  # before others take memory
    cache = build_cache(
      self._devices,
      self._teacher_step,
      self._teacher_params,
      images,
      self._extractor.shapes(images.shape[1], self._method.depth),
      wanted=self._config.train.cache_features,
      batch_size=self._config.train.batch_size,
    )
    if len(self._config.seeds) > 1:
      self._kept = digest, cache
    return cache

  def inputs(
    self, cache: FeatureCache, batch: np.ndarray, exemplars: np.ndarray
  ) -> tuple[Any, Batch, Batch | None]:
    """What `train_step` takes beside the state.

    Args:
      cache: the training images.
      batch: int [B], indices of the batch's images.
      exemplars: int [N], indices of the exemplars; not looked at without memories.
    """
    drawn = cache.draw(exemplars) if self._method.slots else None
    return self._teacher_params, cache.draw(batch), drawn

  def make_step(self, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of any optimizer, not mapped over devices yet.

    Args:
      optimizer: an optax optimizer.

    Returns:
      `(state, teacher_params, batch, exemplars) -> (state, terms)`, of a device's shares.
    """
    step = make_train_step(self.loss, optimizer, self._method.distiller.axis_name)

    def with_teacher(
      state: TrainState, teacher_params: Any, batch: Batch, exemplars: Batch | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
      # The teacher is frozen: it stays out of what is differentiated.
      images = self._extractor.normalize(batch.images)
      features = self._known_or_computed(teacher_params, batch, 3)
      of_exemplars: tuple[jax.Array, ...] = ()
      if exemplars is not None:
        of_exemplars = self._known_or_computed(teacher_params, exemplars, self._method.depth)
      return step(state, images, features, of_exemplars)

    return with_teacher

  def loss(
    self,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    features: tuple[jax.Array, ...],
    exemplar_features: tuple[jax.Array, ...],
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """The loss of a device's share of a batch (method, section 5).

    Args:
      params: the distiller's parameters, not folded.
      batch_stats: running means and variances.
      images: [B, S, S, 3], normalised.
      features: the teacher's stages 1 to 3 of the images, [B, H_k, W_k, C_k].
      exemplar_features: its stages 1 to 3 or 4 of the exemplars; () without memories.

    Returns:
      (loss, ({name: scalar that is logged}, new running means and variances)).
    """
    distilled, updates = self._method.distiller.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      features,
      train=True,
      mutable=['batch_stats', 'intermediates'],
    )
    targets = self._method.memory_targets(exemplar_features, distilled.embedding)
    recalled: Any = self._method.distiller.apply(
      {'params': params, 'batch_stats': batch_stats}, targets, method='recall_by_values'
    )
    memories = {m: params[f'memory_m{m}'] for m in self._method.targets}
    given = losses.Pass(numbered(features), distilled.features, targets, recalled, memories)
    loss, terms = losses.total_loss(self._losses, given)
    terms |= memory_use.step_terms(self._method.addressing(updates), memories)
    return loss, (terms, updates['batch_stats'])

  @functools.cached_property
  def train_step(self) -> Callable[..., Any]:
    """Pmapped `(state, teacher_params, batch, exemplars) -> (state, terms)`."""
    step = self.make_step(self._optimizer)
    return self._devices.map(step, donate=[0])  # type: ignore[no-any-return]

  @functools.cached_property
  def _teacher_step(self) -> Callable[..., Any]:
    """Pmapped `(teacher_params, images) -> features` of all stages that a step needs."""
    return self._devices.map(  # type: ignore[no-any-return]
      lambda params, images: self._extractor(params, images, self._method.depth)
    )

  @functools.cached_property
  def _usage_step(self) -> Callable[..., Any]:
    """Pmapped `(params, teacher_params, batch) -> usage and entropy of each memory`."""

    def look(params: Any, teacher_params: Any, batch: Batch) -> dict[str, Any]:
      features = self._known_or_computed(teacher_params, batch, self._method.depth)
      _, seen = self._method.look_into_memories(params, features, batch.images)
      return {m: {name: of[name] for name in ('usage', 'entropy')} for m, of in seen.items()}

    return self._devices.map(look)  # type: ignore[no-any-return]

  @functools.cached_property
  def _teacher_params(self) -> Any:
    return self._devices.replicate(self._extractor.params)

  @functools.cached_property
  def _init(self) -> Callable[..., Any]:
    return jax.jit(self._method.distiller.init)

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    train = self._config.train
    return optax.adam(train.learning_rate, b1=train.adam_b1, b2=train.adam_b2)

  def _memory_usage(self, params: dict[str, Any], cache: FeatureCache) -> dict[str, Any]:
    """How the training images use each memory: see `memory_use.summarize`."""
    replicated = self._devices.replicate(params)
    parts = []
    for batch, number in cache.batches(self._config.eval.batch_size):
      seen = self._usage_step(replicated, self._teacher_params, batch)
      parts.append(jax.tree.map(functools.partial(self._devices.unshard, number=number), seen))
    seen = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    return {
      m: memory_use.summarize(of['usage'], of['entropy'], params[f'memory_{m}'])
      for m, of in seen.items()
    }

  def _exemplars(self, task: Task, number: int, step: int) -> np.ndarray:
    """Which images are the exemplars of a step; see `data.sampling`."""
    train = self._config.train
    return exemplar_indices(
      task.seed,
      task.name,
      number,
      train.exemplars,
      step,
      train.batch_size,
      train.exemplar_resample,
    )

  def _known_or_computed(
    self, teacher_params: Any, batch: Batch, stages: int
  ) -> tuple[jax.Array, ...]:
    if batch.features is None:
      return self._extractor(teacher_params, batch.images, stages)
    return tuple(f.astype(self._extractor.dtype) for f in batch.features)

  def _memories_from_exemplars(self, variables: Any, task: Task, images: np.ndarray) -> Any:
    """Draws keys and values from positions of the exemplars' target features."""
    exemplars = images[self._exemplars(task, len(images), 0)]
    # Without an axis name: this runs outside of the mapped step.
    distiller = self._method.distiller.clone(axis_name=None)

    @jax.jit
    def targets(teacher_params: Any, variables: Any) -> dict[int, jax.Array]:
      features = self._extractor(teacher_params, exemplars, self._method.depth)
      distilled, _ = distiller.apply(
        variables,
        self._extractor.normalize(exemplars),
        features,
        train=True,
        mutable=['batch_stats'],
      )
      return self._method.memory_targets(features, distilled.embedding)

    generator = np.random.default_rng(category_seed(task.seed, task.name))
    params = dict(variables['params'])
    for m, features in targets(self._extractor.params, variables).items():
      rows = np.asarray(features).reshape(-1, features.shape[-1])
      items = self._config.model.memory_items
      chosen = rows[generator.choice(len(rows), items, replace=items > len(rows))]
      chosen = chosen.astype(params[f'memory_m{m}']['keys'].dtype)
      params[f'memory_m{m}'] = {'keys': chosen, 'values': chosen.copy()}
    return params

  def _bad_teacher_stage(self, images: np.ndarray) -> tuple[str, str] | None:
    """Whether the teacher gave anything that is not finite: what, and the remedy."""
    features = compute_features(
      self._devices,
      self._teacher_step,
      self._teacher_params,
      images,
      self._config.train.batch_size,
    )
    for stage, values in enumerate(features, start=1):
      if not np.isfinite(np.asarray(values, np.float32)).all():
        source = self._config.model.teacher_weights
        return f"the teacher's stage {stage}", f'Check {source} and the machine.'
    return None
