"""How the distillation family is trained (method, sections 4 to 6)."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from memkd_jax.data.sampling import (
  category_seed,
  exemplar_indices,
  image_seeds,
)
from memkd_jax.errors import UserError
from memkd_jax.methods import losses
from memkd_jax.methods.base import Fitted, Start, Task
from memkd_jax.methods.descent import Descent
from memkd_jax.methods.distillation import Distillation, numbered
from memkd_jax.methods.watched_loss import WatchedLoss, set_apart
from memkd_jax.models import memory_use
from memkd_jax.models.disturbances import dropout, feature_noise
from memkd_jax.models.layers import param_dtype
from memkd_jax.training import loop
from memkd_jax.training.feature_cache import FeatureCache
from memkd_jax.training.feature_shapes import FeatureShapes
from memkd_jax.training.plateau import Plateau
from memkd_jax.training.step import Batch, Course, TrainState

# The share of the steps in which the share of easy positions grows from 0, as in Dinomaly.
_MINING_GROWS = 0.1


class Trainer(Descent):
  """Optimizer, compiled steps and data of one method; all its tasks share them."""

  def __init__(self, method: Distillation):
    """Compiles nothing yet."""
    super().__init__(
      method.config,
      method.extractor,
      method.devices,
      loss=self.loss,
      optimizer=_optimizer(method.config),
      depth=method.depth,
      axis_name=method.distiller.axis_name,
    )
    self._method = method
    self._losses = losses.loss_table(method.config.loss, method.distiller.axis_name)
    self._watched_loss = WatchedLoss(method)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Trains by gradient descent; resumes from the newest checkpoint."""
    task, images, watched = set_apart(task, images, self._config.train)
    cached = functools.cache(lambda: self.teacher.cache(images))  # computed once, if at all
    state, _ = self.train(task, images, folder, cached, start, watched)
    params = self.fold(state)
    usage = self._memory_usage(task, params, cached()) if self._method.slots else {}
    kept = self._method.distiller.unfolding(state.params, state.batch_stats)
    return Fitted(params, usage, jax.tree.map(np.asarray, kept))

  def train(
    self,
    task: Task,
    images: np.ndarray,
    folder: Path,
    cached: Callable[[], FeatureCache] | None = None,
    start: Start | None = None,
    watched: np.ndarray | None = None,
  ) -> tuple[TrainState, dict[str, float]]:
    """Takes the steps that are left; see `training.loop.train`.

    Args:
      task: the name and the seed, by which data order and initialisation are drawn.
      images: uint8 [N, H, W, channels], the normal training images.
      folder: the task's folder, for checkpoints and logs.
      cached: gives the images with the teacher's features, where the caller keeps them.
      start: the model that it goes on from, if any.
      watched: normal images whose loss ends the training where it falls no more, if any.

    Raises:
      UserError: the images fill no batch.
    """
    plateau = None
    if watched is not None:
      options = self._config.train
      epoch = max(1, len(images) // options.batch_size)
      loss = functools.partial(self._watched_loss, self, watched)
      plateau = Plateau(folder, loss, epoch, options.patience)
    return self.descend(
      task,
      images,
      folder,
      lambda: self.init_state(task, images, start),
      cached or (lambda: self.teacher.cache(images)),
      {} if start is None else {loop.WARM_START: start.sha256},
      plateau,
    )

  def draw(self, task: Task, number: int, step: int) -> tuple[np.ndarray, ...]:
    """Which images are the batch of a step, and which its exemplars."""
    return *super().draw(task, number, step), self._exemplars(task, number, step)

  def course(self, task: Task, step: int, steps: int) -> Course:
    """See `Descent.course`."""
    loss, train = self._config.loss, self._config.train
    course = super().course(task, step, steps)
    if loss.hard_mining:
      share = loss.easy_share * min(1.0, step / (_MINING_GROWS * steps))
      course = dataclasses.replace(course, easy=self.on_each(share))
    if train.feature_noise != 'none' or self._config.model.bottleneck_dropout:
      seeds = image_seeds(task.seed, task.name, step, train.batch_size)
      course = dataclasses.replace(course, seeds=self._devices.shard(seeds))
    return course

  def init_state(
    self, task: Task, images: np.ndarray, start: Start | None = None
  ) -> TrainState:
    """The state before the first step, a tree of numpy arrays.

    Args:
      task: the name and the seed, which seed the initialisation.
      images: uint8 [N, H, W, channels], the training images, from which the memories
        are initialised where `model.memory_init` asks for it.
      start: a trained model, whose parameters and statistics take the place of random
        ones; the optimizer begins anew, since no model keeps its state.

    Raises:
      UserError: the model has other parameters than the method.
    """
    given = self._first_inputs(task, images.shape[1:3])
    if start is not None:
      shapes = jax.eval_shape(self._method.distiller.init, *given)
      variables = self._unfold(start, shapes)
    else:
      variables = self._with_teacher(self._init(*given))
    from_exemplars = self._config.model.memory_init == 'exemplars' and self._method.slots
    if start is None and from_exemplars:
      variables = variables | {'params': self._memories_from_exemplars(variables, task, images)}
    batch_stats = self._statistics(variables['batch_stats'])
    return self.begin(variables['params'], batch_stats)

  def _first_inputs(self, task: Task, size: tuple[int, ...]) -> tuple[Any, ...]:
    """What the distiller is initialised with: a key, one image and its features."""
    image = jnp.zeros((1, *size, 3), self._extractor.dtype)
    pictures = self._method.pictures
    features = tuple(
      jnp.zeros((pictures, *f.shape[1:]), f.dtype) for f in self._extractor.shapes(size)
    )
    return jax.random.key(category_seed(task.seed, task.name)), image, features

  def _statistics(self, batch_stats: Any) -> Any:
    # flax begins with float32 here whatever the dtype in which they go on.
    dtype = param_dtype(self._extractor.dtype)
    return jax.tree.map(lambda x: x.astype(dtype), batch_stats)

  def variable_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, Any]:
    """Shapes and dtypes of parameters and running statistics, for images [H, W, channels]."""

    def begin() -> tuple[Any, Any]:
      given = self._first_inputs(Task.of_category('', 0), canvas[:2])
      variables: Any = self._method.distiller.init(*given)
      return variables['params'], self._statistics(variables['batch_stats'])

    shapes: tuple[Any, Any] = jax.eval_shape(begin)
    return shapes

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

  def batches(
    self, cache: FeatureCache | FeatureShapes, *drawn: np.ndarray
  ) -> tuple[Batch | None, ...]:
    """What a step looks at.

    Args:
      cache: the training images, or the shapes of some.
      drawn: int [B], indices of the batch's images; int [N], those of the exemplars, not
        looked at without memories.
    """
    batch, exemplars = drawn
    of_exemplars = cache.draw(exemplars) if self._method.slots else None
    return cache.draw(batch), of_exemplars

  def loss_inputs(self, teacher_params: Any, *batches: Batch) -> tuple[Any, ...]:
    """What `loss` takes beside parameters and statistics, of batch and exemplars."""
    batch, exemplars = batches
    images = self._extractor.normalize(batch.images)
    features = self.teacher.of_batch(teacher_params, batch, 3)
    of_exemplars: tuple[jax.Array, ...] = ()
    if exemplars is not None:
      of_exemplars = self.teacher.of_batch(teacher_params, exemplars, self._depth)
    return images, features, of_exemplars

  def loss(
    self,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    features: tuple[jax.Array, ...],
    exemplar_features: tuple[jax.Array, ...],
    course: Course = Course(),  # noqa: B008, which nobody changes
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """The loss of a device's share of a batch (method, section 5).

    Args:
      params: the distiller's parameters, not folded.
      batch_stats: running means and variances.
      images: the images of the batch, [B, H, W, 3], normalised.
      features: the teacher's stages 1 to 3 of the images, [B, H_k, W_k, C_k].
      exemplar_features: the teacher's stages 1 to 3 or 4 of the exemplars, [N, H_k, W_k, C_k];
        () without memories.
      course: what of the step depends on its number, see `Course`.

    Returns:
      (loss, ({name: scalar that is logged}, new running means and variances)).
    """
    distilled, updates = self._method.distiller.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      features,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      **self._disturbances(course.seeds),
    )
    targets = self._method.memory_targets(exemplar_features, distilled.embedding)
    recalled: Any = self._method.distiller.apply(
      {'params': params, 'batch_stats': batch_stats}, targets, method='recall_by_values'
    )
    memories = {m: params[f'memory_m{m}'] for m in self._method.targets}
    given = losses.Pass(
      numbered(features),
      distilled.features,
      targets,
      recalled,
      memories,
      distilled.adapted,
      distilled.rebuilt,
      course.easy,
    )
    loss, terms = losses.total_loss(self._losses, given)
    terms |= memory_use.step_terms(self._method.addressing(updates), memories)
    return loss, (terms, updates['batch_stats'])

  def _disturbances(self, seeds: jax.Array | None) -> dict[str, Any]:
    """What disturbs the student of a batch, by the distiller's argument."""
    if seeds is None:
      return {}
    train, rate = self._config.train, self._config.model.bottleneck_dropout
    found: dict[str, Any] = {}
    if train.feature_noise != 'none':
      found['on_features'] = functools.partial(
        feature_noise,
        seeds=seeds,
        kind=train.feature_noise,
        scale=train.noise_scale,
        share=train.noise_share,
      )
    if rate:
      found['on_embedding'] = functools.partial(dropout, rate=rate, seeds=seeds)
    return found

  def log_order(self, names: Iterable[str]) -> list[str]:
    """See `losses.log_order`."""
    return losses.log_order(self._losses, names)

  def causal_order(self, names: Iterable[str]) -> list[str]:
    """See `losses.causal_order`."""
    return losses.causal_order(self._losses, names, self._method.distiller.RUNNING_ORDER)

  @functools.cached_property
  def _usage_step(self) -> Callable[..., Any]:
    """Pmapped `(params, teacher_params, batch) -> usage and entropy of each memory`."""

    def look(params: Any, teacher_params: Any, batch: Batch) -> dict[str, Any]:
      features = self.teacher.of_batch(teacher_params, batch, self._depth)
      _, seen = self._method.look_into_memories(params, features, batch.images)
      return {m: {name: of[name] for name in ('usage', 'entropy')} for m, of in seen.items()}

    return self._devices.map(look)  # type: ignore[no-any-return]

  def _with_teacher(self, variables: Any) -> Any:
    """Begins an adapted teacher where the frozen one is."""
    if 'teacher' not in variables['params']:
      return variables
    known = self._extractor.params
    teacher = jax.tree.map(
      lambda like, x: jnp.asarray(x, like.dtype),
      variables['params']['teacher'],
      {name: known[name] for name in variables['params']['teacher']},
    )
    return variables | {'params': variables['params'] | {'teacher': teacher}}

  @functools.cached_property
  def _init(self) -> Callable[..., Any]:
    return jax.jit(self._method.distiller.init)

  def _memory_usage(
    self, task: Task, params: dict[str, Any], cache: FeatureCache
  ) -> dict[str, Any]:
    """How the training images use each memory: see `memory_use.summarize`."""
    parts = list(self.over_images(cache, self._usage_step, params))
    seen = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    found = {}
    for m, of in seen.items():
      found[m] = memory_use.summarize(of['usage'], of['entropy'], params[f'memory_{m}'])
      if task.owners is not None:
        found[m] |= memory_use.by_category(of['usage'], task.owners, task.train)
    return found

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
      task.owners,
    )

  def _memories_from_exemplars(self, variables: Any, task: Task, images: np.ndarray) -> Any:
    """Draws keys and values from positions of the exemplars' target features."""
    exemplars = images[self._exemplars(task, len(images), 0)]
    # Without an axis name: this runs outside of the mapped step.
    distiller = self._method.distiller.clone(axis_name=None)

    @jax.jit
    def targets(teacher_params: Any, variables: Any) -> dict[int, jax.Array]:
      features = self._extractor(teacher_params, exemplars, self._depth)
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


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Adam; an adapted teacher goes at a rate of its own."""
  train = config.train
  adam = optax.adam(train.learning_rate, b1=train.adam_b1, b2=train.adam_b2)
  if not config.model.adapt_teacher:
    return adam
  # Adam's steps do not depend on the size of a gradient, so a factor is a rate.
  slower = optax.scale(train.adapt_rate / train.learning_rate)
  of_teacher = optax.masked(slower, lambda params: {name: name == 'teacher' for name in params})
  return optax.chain(adam, of_teacher)
