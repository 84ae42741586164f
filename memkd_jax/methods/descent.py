"""What methods share that learn by gradient descent: all but their loss and their beginning.

It imports the optimizers and the checkpoints, so a method imports it where it is fitted.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from memkd_jax.config import flatten
from memkd_jax.data.prefetch import Prefetch
from memkd_jax.data.sampling import batch_indices, number_of_steps
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import images_digest
from memkd_jax.methods.base import Task
from memkd_jax.methods.teacher_features import TeacherFeatures
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training import loop, nan_guard, norm_statistics, overview
from memkd_jax.training.feature_cache import FeatureCache
from memkd_jax.training.feature_shapes import FeatureShapes
from memkd_jax.training.plateau import Plateau
from memkd_jax.training.schedule import rate_factor
from memkd_jax.training.step import Batch, Course, LossFunction, TrainState, make_train_step


class Descent:
  """Optimizer, compiled steps and data of one method; all its tasks share them.

  The fields of `descent_config.fields` say how it goes about it. A method whose step takes
  more than a batch of images overrides `draw`, `batches` and `loss_inputs`; one whose loss
  depends on the step's number, or on chance, `course`.

  Attributes:
    teacher: the frozen teacher's features of the training images and of a step's batch.
  """

  def __init__(
    self,
    config: ConfigDict,
    extractor: FeatureExtractor,
    devices: Devices,
    *,
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    depth: int,
    axis_name: str | None,
  ):
    """Compiles nothing yet.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      extractor: the frozen teacher, whose features are imitated.
      devices: the devices that share out every batch.
      loss: `(params, batch_stats, images, features) -> (loss, (terms, batch_stats))`, see
        `loss_inputs`; means over a device's share of a batch, so that their average over
        the devices is that of the batch. 'loss' is among the terms, which are logged.
      optimizer: the optax optimizer that takes the steps.
      depth: the number of the teacher's stages that are looked at.
      axis_name: the mapped axis over which a step is averaged, as `descent_config.mapped_axis`
        gives it; None where each device trains a model of its own.
    """
    self._config, self._extractor, self._devices = config, extractor, devices
    self._loss, self._optimizer = loss, optimizer
    self._depth, self._axis_name = depth, axis_name
    self.teacher = TeacherFeatures(config, extractor, devices, depth)
    self._said = not devices.first  # of several lanes one says it

  def begin(self, params: Any, batch_stats: Any) -> TrainState:
    """The state before the first step, a tree of numpy arrays, the same in all processes.

    Args:
      params: the parameters that are trained, a tree of arrays.
      batch_stats: what a step reads beside the parameters, and may replace: running means and
        variances, or constants of the training images.
    """
    state = self._before_steps(params, batch_stats)
    return hosts.broadcast_from_main(jax.tree.map(np.asarray, state))

  def _before_steps(self, params: Any, batch_stats: Any) -> TrainState:
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=self._optimizer.init(params),
    )

  def step_shapes(
    self, params: Any, batch_stats: Any, canvas: tuple[int, int, int]
  ) -> tuple[Any, ...]:
    """Shapes and dtypes of what `train_step` takes, leaves [P, ...].

    The teacher's features are among them unless train.cache_features is 'off'.

    Args:
      params: shapes and dtypes of what is trained.
      batch_stats: shapes and dtypes of what a step reads beside the parameters, see `begin`.
      canvas: (height, width, channels) of an image.
    """
    train, task = self._config.train, Task.of_category('', 0)
    state = jax.eval_shape(self._before_steps, params, batch_stats)
    number = max(train.batch_size, train.get('exemplars', 0))
    shapes = FeatureShapes(self._devices, canvas, self.teacher.shapes(canvas))
    batches = self.batches(shapes, *self.draw(task, number, 0))
    course = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.course(task, 0, 1)
    )
    stacked = self._devices.stacked((state, self._extractor.params))
    return (*stacked, *batches, course)

  def descend(
    self,
    task: Task,
    images: np.ndarray,
    folder: Path,
    begin: Callable[[], TrainState],
    cached: Callable[[], FeatureCache],
    metadata: Mapping[str, Any] | None = None,
    plateau: Plateau | None = None,
  ) -> tuple[TrainState, dict[str, float]]:
    """Takes the steps that are left; see `training.loop.train`.

    Args:
      task: the name and the seed, by which the order of the data is drawn.
      images: uint8 [N, H, W, channels], the normal training images.
      folder: the task's folder, for checkpoints and logs.
      begin: gives the state before the first step, which must not depend on chance.
      cached: gives `teacher.cache(images)`; called where steps are left.
      metadata: JSON values that tell the training from others beside the images, if any.
      plateau: ends the training before its last step, if any.

    Raises:
      UserError: the images fill no batch.
    """
    train, name, number = self._config.train, task.name, len(images)
    steps = number_of_steps(train.epochs, number, train.batch_size)
    if steps == 0:
      raise UserError(
        f'{name}: {number} images in {train.epochs} epochs fill no batch of '
        f'{train.batch_size}; raise --config.train.epochs or lower --config.train.batch_size.'
      )

    state = begin()
    reading = contextlib.ExitStack()

    def prepare() -> loop.Draw:
      self._describe(state, folder)
      cache = cached()
      _ = self.teacher.params  # before threads want it

      def draw(step: int) -> tuple[Any, ...]:
        inputs = self.inputs(cache, *self.draw(task, number, step))
        return (*inputs, self.course(task, step, steps))

      return reading.enter_context(Prefetch(draw, steps)) if cache.is_stored else draw

    def check(step: int, terms: Mapping[str, float]) -> None:
      nan_guard.check(
        name,
        step,
        terms,
        self.causal_order,
        lambda at: self.teacher.bad_stage(
          images[np.concatenate(self.draw(task, number, at - 1))]
        ),
      )

    options = loop.LoopOptions(
      name=name,
      batch_size=train.batch_size,
      checkpoint_steps=train.checkpoint_steps,
      log_steps=train.log_steps,
      trackers=train.trackers,
      fields=flatten(self._config.to_dict()),
      profile=train.profile,
      check=check,
      order=self.log_order,
    )
    with reading:
      state, terms = loop.train(
        state,
        self.train_step,
        prepare,
        steps,
        folder,
        devices=self._devices,
        metadata={
          'train_images': number,
          'train_sha256': images_digest(images),
          **(metadata or {}),
        },
        options=options,
        plateau=plateau,
      )
    if train.get('norm_statistics') == 'exact':
      state = self._with_exact_statistics(task, cached(), number, state)
    return state, terms

  def _with_exact_statistics(
    self, task: Task, cache: FeatureCache, number: int, state: TrainState
  ) -> TrainState:
    """Replaces the running averages; see `norm_statistics`.

    It looks at the batches that would have come next, without what disturbs them in training.
    """
    size, first = self._config.train.batch_size, int(state.step)
    steps = range(first, first + min(norm_statistics.MOST_BATCHES, -(-number // size)))
    course = dataclasses.replace(self.course(task, first - 1, first), seeds=None)
    variables = self._devices.replicate((state.params, state.batch_stats))

    def look() -> Iterator[Any]:
      with progress_bar(f'{task.name}: statistics', len(steps) * size) as progress:
        for step in steps:
          interrupt.raise_if_asked()
          inputs = self.inputs(cache, *self.draw(task, number, step))
          drawn = self._devices.put((*inputs, course))
          yield self._devices.unreplicate(self._statistics_step(variables, *drawn))
          progress.update(size)

    found = norm_statistics.mean_of_batches(state.batch_stats, look())
    return dataclasses.replace(state, batch_stats=found)

  def _describe(self, state: TrainState, folder: Path) -> None:
    """Writes the table of all parameters, and prints their totals the first time."""
    parts = overview.parts_of(state.params, self._extractor.params)
    hosts.on_main(lambda: atomic.write_text(folder / overview.FILE, overview.table(parts)))
    if not self._said:
      print(overview.one_line(parts, state), flush=True)
    self._said = True

  def over_images(
    self, cache: FeatureCache, look: Callable[..., Any], params: Any
  ) -> Iterator[Any]:
    """Computes something of each training image, in their order, a batch at a time.

    Args:
      cache: the training images, perhaps with the teacher's features.
      look: pmapped `(params, teacher_params, batch) -> tree`, leaves [B / D, ...].
      params: what `look` takes first, a tree of numpy arrays.

    Yields:
      The trees of numpy arrays [b, ...].
    """
    replicated = self._devices.replicate(params)
    for batch, number in cache.batches(self._config.eval.batch_size):
      found = look(replicated, self.teacher.params, batch)
      yield jax.tree.map(functools.partial(self._devices.unshard, number=number), found)

  def draw(self, task: Task, number: int, step: int) -> tuple[np.ndarray, ...]:
    """Which images a step takes: the indices of its batch, and what else is drawn.

    Args:
      task: the task, by whose name and seed images are drawn.
      number: number of the training images.
      step: number of the step, from 0.
    """
    size = self._config.train.batch_size
    return (batch_indices(task.seed, task.name, number, size, step),)

  def inputs(self, cache: FeatureCache, *drawn: np.ndarray) -> tuple[Any, ...]:
    """What `train_step` takes beside the state; arguments as `batches`."""
    return (self.teacher.params, *self.batches(cache, *drawn))

  def batches(
    self, cache: FeatureCache | FeatureShapes, *drawn: np.ndarray
  ) -> tuple[Batch | None, ...]:
    """What a step looks at.

    Args:
      cache: the training images, or the shapes of some.
      drawn: indices of images, int [B] each, as `draw` gives them.
    """
    return tuple(cache.draw(indices) for indices in drawn)

  def course(self, task: Task, step: int, steps: int) -> Course:
    """What else a step takes, with a leading axis for the devices of this process.

    Args:
      task: the task, by whose name and seed something may be drawn.
      step: number of the step, from 0.
      steps: number of all steps of the training.
    """
    train = self._config.train
    if train.schedule == 'constant':
      return Course()
    return Course(rate=self.on_each(rate_factor(train.schedule, train.warmup, step, steps)))

  def on_each(self, value: float) -> np.ndarray:
    """A number for each device of this process: float32 [P]."""
    return np.full(len(self._devices.local), value, np.float32)

  def loss_inputs(self, teacher_params: Any, *batches: Batch) -> tuple[Any, ...]:
    """What the loss takes beside parameters and statistics: images and their features.

    Args:
      teacher_params: the extractor's parameters, a tree of arrays.
      batches: a device's shares of the batches that `draw` chose.

    Returns:
      (images as the teacher sees them, [B, H, W, 3]; features, [B, H_k, W_k, C_k] each).
    """
    (batch,) = batches
    images = self._extractor.normalize(batch.images)
    return images, self.teacher.of_batch(teacher_params, batch, self._depth)

  def make_step(self, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of any optimizer, not mapped over devices yet.

    Args:
      optimizer: the optax optimizer that takes the step.

    Returns:
      `(state, teacher_params, *batches) -> (state, terms)`, of a device's shares; a `Course`
      may come last.
    """
    step = make_train_step(self._loss, optimizer, self._axis_name)

    def with_teacher(
      state: TrainState, teacher_params: Any, *given: Batch | Course
    ) -> tuple[TrainState, dict[str, jax.Array]]:
      # The teacher is frozen: it stays out of what is differentiated.
      inputs, course = self._split(teacher_params, *given)
      return step(state, *inputs, rate=course.rate)

    return with_teacher

  def _split(
    self, teacher_params: Any, *given: Batch | Course
  ) -> tuple[tuple[Any, ...], Course]:
    """What the loss takes of what a step takes, and the course of the step."""
    batches = [batch for batch in given if not isinstance(batch, Course)]
    course = next((c for c in given if isinstance(c, Course)), Course())
    inputs = self.loss_inputs(teacher_params, *batches)
    if course.easy is not None or course.seeds is not None:
      inputs = (*inputs, course)
    return inputs, course

  def log_order(self, names: Iterable[str]) -> list[str]:
    """Sorts the names of logged values: the loss, then the others by name."""
    return sorted(names, key=lambda name: (name != 'loss', name))

  def causal_order(self, names: Iterable[str]) -> list[str]:
    """Sorts the names of logged values: parts of the loss, the loss, the gradient."""
    last = ('loss', 'grad_norm')
    return sorted(names, key=lambda name: (name in last, name == last[1], name))

  @functools.cached_property
  def train_step(self) -> Callable[..., Any]:
    """Pmapped `(state, teacher_params, *batches) -> (state, terms)`."""
    step = self.make_step(self._optimizer)
    return self._devices.map(step, donate=[0])  # type: ignore[no-any-return]

  @functools.cached_property
  def _statistics_step(self) -> Callable[..., Any]:
    """Pmapped `((params, batch_stats), teacher_params, *batches) -> new batch_stats`."""

    def look(variables: tuple[Any, Any], teacher_params: Any, *given: Batch | Course) -> Any:
      inputs, _ = self._split(teacher_params, *given)
      _, (_, batch_stats) = self._loss(*variables, *inputs)
      return batch_stats

    return self._devices.map(look)  # type: ignore[no-any-return]
