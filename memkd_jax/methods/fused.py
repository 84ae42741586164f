"""Several pictures of an object, and their maps as one.

Photographs, depth and normals (`data.inputs`) each have a student, or a memory bank, of their
own behind the one teacher (late fusion); or one student sees all of them (early fusion,
`model.joint_bottleneck`). Each map is brought to units of what it is on the training images,
so that none drowns the others; with anomaly_map.normalize=stage, of held-out ones. Where a
picture shows nothing, because nothing was measured, its map is 0, the mean.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.errors import UserError
from memkd_jax.files.digest import images_digest
from memkd_jax.files.stored_rows import is_stored, mapped
from memkd_jax.methods import kept_parts, tile_models
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.one_pass import over_batches
from memkd_jax.methods.standardization import moments, over_all_images, standardize
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.anomaly_map import combine_maps
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training import divergence

FOLDER = 'inputs'
# Where a picture's model is kept in a task's folder until all is done, with models of places.
_WHERE = (f'{FOLDER}/*', f'{tile_models.FOLDER}/*/{FOLDER}/*')
_USUAL, _STUDENT = 'usual', 'student'  # beside the names of pictures


class Fused(Method):
  """A detector of each picture, and their maps as one; attributes as in `Method`."""

  def __init__(
    self,
    config: ConfigDict,
    member: Method,
    inputs: Sequence[str],
    extractor: FeatureExtractor,
    devices: Devices,
  ):
    """Fits nothing yet.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      member: the method that learns and scores each picture.
      inputs: `data.inputs`, the names of the pictures in their order on the canvas.
      extractor: the frozen teacher, which sees each picture.
      devices: the devices that share out every batch.

    Raises:
      UserError: maps of training images give no unit, and those of others are not taken.
    """
    self._config, self._extractor, self._devices = config, extractor, devices
    self._member, self._inputs = member, tuple(inputs)
    self.name = f'{member.name} of {" + ".join(inputs)}'
    self.stages, self.notes = member.stages, member.notes
    self.diagnosed_stages = ()
    if member.memorizes and config.anomaly_map.normalize == 'none':
      raise UserError(
        f'{member.name} finds its training images again, whose maps give no unit in which '
        f'those of {", ".join(inputs)} could be added; take the unit of held-out images with '
        '--config.anomaly_map.normalize=stage --config.train.holdout=0.1.'
      )

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Fits one after the other; those that are done are not repeated."""
    params = self._learn(task, images, folder)
    params[_USUAL] = self._measure(task, images, params)
    return Fitted(params, {})

  def _learn(self, task: Task, images: np.ndarray, folder: Path) -> dict[str, Any]:
    """{name of the picture: what its detector has learned}."""
    params: dict[str, Any] = {}
    for number, name in enumerate(self._inputs):
      rows = self._counting(task, images, number)
      home, seen = folder / FOLDER / name, _rows_of(images, number, rows)
      facts = {'train_sha256': images_digest(seen)}
      found = kept_parts.read(home, facts)
      if found is None:
        of_input = dataclasses.replace(task.of_images(rows), name=f'{task.name}, {name}')
        found = self._member.fit(of_input, seen, home).params
        kept_parts.write(home, found, facts)
      params[name] = found
    return params

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    return self._member.step_shapes((*canvas[:2], 4))  # one picture after the other

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{number of the picture: its map}, features as `FeatureExtractor` gives them."""
    found = self._raw(params, features, images)
    return {k: standardize(x, params[_USUAL][f'map{k}']) for k, x in found.items()}

  def diagnosed_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[dict[int, jax.Array], dict[str, Any]]:
    """`maps`, and the same by the names of the pictures, for the report."""
    found = self.maps(params, features, images)
    return found, {name: found[number] for number, name in enumerate(self._inputs)}

  def _raw(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """The map of each picture, on the grid of its first stage."""
    align_corners, together = self._config.anomaly_map.align_corners, {}
    for number, found in enumerate(self._stage_maps(params, features, images)):
      _, height, width = found[min(found)].shape
      together[number] = combine_maps(
        found, (height, width), align_corners=align_corners, sigma=0.0
      )
    return together

  def _stage_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> Iterator[dict[int, jax.Array]]:
    """The maps of each picture, {stage: [B, H_k, W_k]}."""
    for number, name in enumerate(self._inputs):
      own = tuple(self._of_picture(x, number) for x in features)
      yield self._member.maps(params[name], own, _layer(images, number))

  def _of_picture(self, x: jax.Array, number: int) -> jax.Array:
    """What belongs to one of the pictures: [B M, ...] -> [B, ...]."""
    return x.reshape(-1, len(self._inputs), *x.shape[1:])[:, number]

  def _measure(self, task: Task, images: np.ndarray, params: Any) -> dict[str, Any]:
    """Mean and deviation of each map over the training images, where its picture counts."""
    size, devices = self._config.eval.batch_size, self._devices
    constants = devices.replicate((self._extractor.params, params))
    batches = over_batches(
      devices, f'{task.name}, maps', images, size, self._moments, *constants
    )
    parts = [found for _, found in batches]
    usual: dict[str, Any] = {}
    for number in range(len(self._inputs)):
      rows = self._counting(task, images, number)
      key = f'map{number}'
      found = jax.tree.map(lambda *x: np.concatenate(x), *[part[key] for part in parts])
      usual |= over_all_images([{key: {name: x[rows] for name, x in found.items()}}])
    return usual

  def _counting(self, task: Task, images: np.ndarray, number: int) -> np.ndarray:
    """Which images show anything that counts in a picture; raises UserError where none does."""
    rows = np.flatnonzero([image[..., 4 * number + 3].any() for image in images])
    if not len(rows):
      name = self._inputs[number]
      others = ','.join(other for other in self._inputs if other != name)
      raise UserError(
        f'{task.name}: of {name} nothing counts in any image; leave it out with '
        f'--config.data.inputs={others}, or look at another part of the images.'
      )
    return rows

  @functools.cached_property
  def _moments(self) -> Callable[..., Any]:
    """Pmapped `(images, teacher_params, params) -> moments` of the maps."""

    def look(images: jax.Array, teacher_params: Any, params: Any) -> dict[str, Any]:
      features = self._extractor(teacher_params, images, max(self.stages))
      maps = self._raw(params, features, images)
      return {f'map{k}': moments(x[..., None], _layer(images, k)) for k, x in maps.items()}

    return self._devices.map(look)  # type: ignore[no-any-return]


class OneStudent(Fused):
  """One student that sees all pictures of an object; attributes as in `Method`."""

  def __init__(self, *given: Any):
    """As `Fused`; the member learns and scores all pictures together."""
    super().__init__(*given)
    self.name += ', one bottleneck'

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    return self._member.step_shapes(canvas)

  def _learn(self, task: Task, images: np.ndarray, folder: Path) -> dict[str, Any]:
    return {_STUDENT: self._member.fit(task, images, folder).params}

  def _stage_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> Iterator[dict[int, jax.Array]]:
    found = self._member.maps(params[_STUDENT], features, images)
    for number in range(len(self._inputs)):
      yield {k: self._of_picture(x, number) for k, x in found.items()}


def diverged(folder: Path, name: str) -> list[str]:
  """Says which trainings of pictures ended far above their lowest loss, a sentence each.

  Args:
    folder: the task's folder, in which the pictures' logs lie.
    name: the task's name, for the sentences.
  """
  logs = sorted(log for where in _WHERE for log in folder.glob(f'{where}/metrics.jsonl'))
  found = []
  for log in logs:
    place = log.parent.relative_to(folder).parts  # ('tiles', '3', 'inputs', 'depth')
    tile = f', tile {int(place[1]) + 1}' if len(place) > 2 else ''
    found.append(divergence.describe(log, f'{name}{tile}, {place[-1]}'))
  return [said for said in found if said]


def discard(folder: Path) -> None:
  """Removes the models that `fit` left in a task's folder, and leaves their logs.

  Raises:
    OSError: they cannot be removed.
  """
  kept_parts.forget_all(folder, _WHERE)


def _layer(images: Any, number: int) -> Any:
  """One of the pictures on a canvas: [..., 4 M] -> [..., 4]."""
  return images[..., 4 * number : 4 * number + 4]


def _rows_of(images: np.ndarray, number: int, rows: np.ndarray) -> np.ndarray:
  """One of the pictures of some objects: [N, H, W, 4 M] -> [n, H, W, 4]."""
  if is_stored(images):
    shape = (*images.shape[1:3], 4)
    return mapped(images, rows, lambda _, image: _layer(image, number), shape)
  return np.ascontiguousarray(_layer(images, number)[rows])
