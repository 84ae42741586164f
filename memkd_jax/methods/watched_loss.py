"""The loss of normal images that a student does not learn from, by which a training may end."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.data.sampling import holdout_indices
from memkd_jax.errors import UserError
from memkd_jax.files.stored_rows import take
from memkd_jax.methods import losses
from memkd_jax.methods.base import Task
from memkd_jax.methods.distillation import Distillation, numbered
from memkd_jax.training.feature_cache import FeatureCache
from memkd_jax.training.step import Batch, TrainState

if TYPE_CHECKING:
  from memkd_jax.methods.descent import Descent


def set_apart(
  task: Task, images: np.ndarray, train: ConfigDict
) -> tuple[Task, np.ndarray, np.ndarray | None]:
  """The task and the images that are learned from, and those that are watched, if any.

  Args:
    task: the task, by whose name and seed the watched images are drawn.
    images: uint8 [N, H, W, channels], the normal training images.
    train: the section 'train' of the config.

  Raises:
    UserError: there are none to be watched.
  """
  if train.stop == 'epochs':
    return task, images, None
  kept, watched = holdout_indices(task.seed, task.name, len(images), train.stop_share)
  if not len(watched):
    raise UserError(
      f'{task.name}: a single image leaves none whose loss could end the training; give more, '
      'or --config.train.stop=epochs.'
    )
  return task.of_images(kept), take(images, kept), take(images, watched)


class WatchedLoss:
  """L_KD of images in inference, with a program that is compiled once."""

  def __init__(self, method: Distillation):
    """Compiles nothing yet."""
    self._method = method

  def __call__(self, descent: 'Descent', images: np.ndarray, state: Any) -> float:
    """The mean over images.

    Args:
      descent: the training, which has the teacher's parameters.
      images: the watched images, uint8 [n, H, W, channels].
      state: the `TrainState`, replicated on the devices.
    """
    found, devices = [], self._method.devices
    batches = FeatureCache(devices, images, None, 'host').batches
    for batch, number in batches(self._method.config.eval.batch_size):
      distances = self._step(state, descent.teacher.params, batch)
      found.append(devices.unshard(distances, number))
    return float(np.concatenate(found).mean(dtype=np.float64))

  @functools.cached_property
  def _step(self) -> Callable[..., Any]:
    """Pmapped `(state, teacher_params, batch) -> L_KD of each image`, [B]."""
    method = self._method
    kd = functools.partial(losses.distillation_loss, reading=method.config.loss.kd)

    def of_image(*given: dict[int, jax.Array]) -> jax.Array:
      teacher, student, adapted, rebuilt = jax.tree.map(lambda x: x[None], given)
      stages = losses.add(kd(teacher, student), kd(adapted, rebuilt))
      return functools.reduce(jax.numpy.add, stages.values())

    def look(state: TrainState, teacher_params: Any, batch: Batch) -> jax.Array:
      features = method.extractor(teacher_params, batch.images)
      found: Any = method.distiller.apply(
        {'params': state.params, 'batch_stats': state.batch_stats},
        method.extractor.normalize(batch.images),
        features,
      )
      teacher = {k: numbered(features)[k] for k in found.features}
      distances = jax.vmap(of_image)(teacher, found.features, found.adapted, found.rebuilt)
      # Of several pictures that one student sees a row each: the mean of an object's.
      return distances.reshape(len(batch.images), -1).mean(axis=1)

    return method.devices.map(look)  # type: ignore[no-any-return]
