"""A distilled student and nearest neighbours of the same features, as one detector.

Where parts are aligned a student finds more, where normal images vary from one to the next
nearest neighbours do: those of deep stages what is large, those of the first ones what is
small. All maps are brought to units of what they are on the training images, and added: one
voice each. The neighbours are PatchCore's, in coresets whose size does not grow with the number
of training images.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field, require
from memkd_jax.methods import distillation_config, patchcore
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.one_pass import over_batches
from memkd_jax.methods.standardization import moments, over_all_images, standardize
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.anomaly_map import combine_maps
from memkd_jax.teachers.extractor import FeatureExtractor

if TYPE_CHECKING:
  from memkd_jax.methods.distillation import Distillation

FIELDS = (
  *distillation_config.FIELDS,
  *patchcore.MEMORY_FIELDS,
  Field(
    'method.fine_stages',
    (1,),
    "The teacher's stages that make up a patch of a second coreset; () for one coreset alone",
    choices=(1, 2, 3),
    before=(),
  ),
)
_NEIGHBOURS, _STUDENT, _FINE = 0, 1, 2  # the keys of the maps
_Maps = dict[int, jax.Array]


def configure(config: ConfigDict, name: str) -> None:
  """Coresets that are searched sooner than a student runs, whatever they were chosen from."""
  config.method.most = 2048


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  combine = config.anomaly_map.combine  # of maps below their means a product would be high
  require('anomaly_map.combine', combine, combine == 'sum', 'is sum')
  joint = config.model.joint_bottleneck  # neighbours have none
  what = 'is False, or choose a method of one student, such as memkd'
  require('model.joint_bottleneck', joint, not joint, what)
  student = distillation_config.resolve(_of_student(config))
  config.model, config.train = student.model, student.train
  config.method.fine_stages = tuple(sorted(set(config.method.fine_stages)))
  return patchcore.resolve(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'Ensemble':
  """Makes the method of a resolved config; errors as `distillation.create`."""
  from memkd_jax.methods import distillation  # imports flax, which takes seconds

  student = distillation.create(_of_student(config), extractor, devices)
  neighbours, fine = patchcore.create(config, extractor, devices), None
  if config.method.get('fine_stages'):  # which models lack that are older than the field
    config_of_fine = config.copy_and_resolve_references()
    config_of_fine.method.stages = config.method.fine_stages
    fine = patchcore.create(config_of_fine, extractor, devices)
  return Ensemble(config, student, neighbours, fine)


class Ensemble(Method):
  """The sum of two or three maps; attributes as in `Method`."""

  warm_starts = True

  def __init__(
    self,
    config: ConfigDict,
    student: 'Distillation',
    neighbours: patchcore.PatchCore,
    fine: patchcore.PatchCore | None = None,
  ):
    """Takes its members.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      student: the member that learns by gradient descent.
      neighbours: the member that keeps patches.
      fine: a further member that keeps patches of method.fine_stages, if any.
    """
    self._config, self._student = config, student
    # By what their parameters and their maps are called.
    self._neighbours = {('neighbours', _NEIGHBOURS): neighbours}
    if fine is not None:
      self._neighbours['fine', _FINE] = fine
    self.name = f'{student.name} + {neighbours.name}'
    others = (stage for member in self._neighbours.values() for stage in member.stages)
    self.stages = tuple(sorted({*student.stages, *others}))
    self.diagnosed_stages = student.diagnosed_stages
    self.notes = student.notes

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Fits one after the other; the student goes on from that of another ensemble."""
    if start is not None:
      start = start._replace(params=start.params['student'])
    student = self._student.fit(task, images, folder, start)
    params = {'student': student.params}
    for (name, _), member in self._neighbours.items():
      params[name] = member.fit(task, images, folder).params
    params['usual'] = self._measure(task, images, params)
    return Fitted(params, student.diagnosis, student.unfolding)

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    return self._student.step_shapes(canvas)

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """See `Method`."""
    params = {'student': self._student.param_shapes(canvas)}
    for (name, _), member in self._neighbours.items():
      params[name] = member.param_shapes(canvas)
    if any(shapes is None for shapes in params.values()):
      return None
    keys = (_STUDENT, *(key for _, key in self._neighbours))
    one = jax.ShapeDtypeStruct((1,), np.float32)
    usual = {f'map{key}': {'mean': one, 'deviation': one} for key in keys}
    return params | {'usual': usual}

  def maps(self, params: Any, features: tuple[jax.Array, ...], images: jax.Array) -> _Maps:
    """{0: of neighbours, 1: of the student, all on the grid of its first stage, 2: fine}."""
    found = self._student.maps(params['student'], features, images)
    return _standardized(self._together(params, features, images, found), params['usual'])

  def diagnosed_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[_Maps, dict[str, Any]]:
    """`maps`, and how the student's memories are addressed."""
    found, diagnosis = self._student.diagnosed_maps(params['student'], features, images)
    maps = _standardized(self._together(params, features, images, found), params['usual'])
    return maps, diagnosis

  def _together(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array, found: _Maps
  ) -> _Maps:
    """All maps, of the maps of the student's stages."""
    _, height, width = found[min(found)].shape
    align_corners = self._config.anomaly_map.align_corners
    student = combine_maps(found, (height, width), align_corners=align_corners, sigma=0.0)
    together = {_STUDENT: student}
    for (name, key), member in self._neighbours.items():
      together[key] = member.maps(params[name], features, images)[0]
    return dict(sorted(together.items()))

  def _measure(self, task: Task, images: np.ndarray, params: Any) -> dict[str, Any]:
    """Mean and deviation of each map over the training images."""
    devices, size = self._student.devices, self._config.eval.batch_size
    constants = devices.replicate((self._student.extractor.params, params))
    batches = over_batches(
      devices, f'{task.name}, maps', images, size, self._moments, *constants
    )
    usual: dict[str, Any] = over_all_images([found for _, found in batches])
    return usual

  @functools.cached_property
  def _moments(self) -> Callable[..., Any]:
    """Pmapped `(images, teacher_params, params) -> moments` of the maps."""

    def look(images: jax.Array, teacher_params: Any, params: Any) -> dict[str, Any]:
      features = self._student.extractor(teacher_params, images, max(self.stages))
      found = self._student.maps(params['student'], features, images)
      maps = self._together(params, features, images, found)
      return {f'map{k}': moments(x[..., None], images) for k, x in maps.items()}

    return self._student.devices.map(look)  # type: ignore[no-any-return]


def _standardized(maps: _Maps, usual: dict[str, Any]) -> _Maps:
  return {k: standardize(x, usual[f'map{k}']) for k, x in maps.items()}


def _of_student(config: ConfigDict) -> ConfigDict:
  """The config with the name that the student's own method has."""
  config = config.copy_and_resolve_references()
  config.method.name = 'memkd'
  return config
