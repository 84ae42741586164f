"""Uninformed students (Bergmann et al., CVPR 2020), on the teacher that all methods here share.

Several students of random initialisation learn to give the teacher's features of normal images.
Where they err, or do not agree with each other, an image is abnormal. Not as in the paper, the
teacher is a frozen ImageNet network and not one that was distilled for patch descriptors, and
the students are residual networks that see the whole image, with a loss at each chosen stage;
so there are no patch sizes to be combined. Mean and deviation of the maps are those of the
training images, where the paper has others that are normal. Epochs, rate and weight decay are
the paper's; batches are larger, for the students normalise over them.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field
from memkd_jax.data.sampling import category_seed
from memkd_jax.methods import descent_config
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.distillation_config import (
  NORM_STATISTICS,
  STUDENT_FIELDS,
  choose_student,
)
from memkd_jax.methods.one_pass import resolve_stages
from memkd_jax.methods.standardization import moments, over_all_images, standardize
from memkd_jax.models.distillers import ForwardDistiller, check_pair
from memkd_jax.models.layers import param_dtype
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

if TYPE_CHECKING:
  from memkd_jax.methods.descent import Descent
  from memkd_jax.training.feature_cache import FeatureCache
  from memkd_jax.training.step import TrainState

_Stages = dict[str, Any]  # by 'stage1', ...
FIELDS = (
  *STUDENT_FIELDS,
  Field(
    'method.stages',
    (1, 2, 3),
    "The teacher's stages that the students learn",
    choices=(1, 2, 3),
  ),
  Field('method.students', 3, 'Number M of students', high=64, open_low=True),
  *descent_config.fields(epochs=100, batch_size=16, learning_rate=1e-4),
  NORM_STATISTICS,
  Field('train.weight_decay', 1e-5, 'Weight of the squared parameters in the loss', high=1e6),
)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself, and fills in the students' architecture."""
  choose_student(config.model)
  if config.train.norm_statistics == 'auto':
    config.train.norm_statistics = 'running'  # at this learning rate they do not lag behind
  return resolve_stages(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'Students':
  """Makes the method of a resolved config.

  Raises:
    UserError: teacher and students do not fit together, or the devices do not divide a batch.
  """
  return Students(config, extractor, devices)


class Students(Method):
  """Regression error and disagreement of students; attributes as in `Method`."""

  name = 'Students'
  diagnosed_stages = ()

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    model = config.model
    check_pair(model.backbone, model.student, model.projection)
    self.stages = tuple(config.method.stages)
    self.notes: list[str] = []
    self._config, self._extractor, self._devices = config, extractor, devices
    self._student = ForwardDistiller(
      model.backbone,
      self.stages,
      memories=(),
      dtype=extractor.dtype,
      axis_name=descent_config.mapped_axis(config, devices),
      student=model.student,
      projection=model.projection,
    )
    self._folded = self._student.clone(folded=True)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Trains all students at once; resumes from the newest checkpoint."""
    cached = functools.cache(lambda: self._descent.teacher.cache(images))
    state, _ = self._descent.descend(
      task, images, folder, lambda: self._begin(task, images, cached()), cached
    )
    trained = jax.vmap(self._student.fold)(state.params, state.batch_stats['students'])
    params = {
      f'student{i}': jax.tree.map(lambda x, i=i: np.asarray(x[i]), trained)
      for i in range(self._config.method.students)
    }
    params['target'] = state.batch_stats['target']
    found = self._descent.over_images(cached(), self._maps_moments, params)
    return Fitted({**params, **over_all_images(found)}, {})

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """See `Method`."""
    trained, statistics = self._variable_shapes(canvas)
    given = {'students': statistics, 'target': self._moments_shapes()}
    descent = self._descent
    return descent.train_step, descent.step_shapes(trained, given, canvas)

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """See `Method`."""
    folded = jax.eval_shape(jax.vmap(self._student.fold), *self._variable_shapes(canvas))
    params = {
      f'student{i}': jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), folded)
      for i in range(self._config.method.students)
    }
    of_maps = self._moments_shapes(of_maps=True)
    target = self._moments_shapes()
    return params | {'target': target, 'error': of_maps, 'variance': of_maps}

  def _variable_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, Any]:
    """Of all students' parameters and running statistics, leaves [M, ...]."""
    dtype = param_dtype(self._extractor.dtype)

    def begin() -> tuple[Any, Any]:
      image = jnp.zeros((1, *canvas[:2], 3), self._extractor.dtype)
      keys = jax.random.split(jax.random.key(0), self._config.method.students)
      variables: Any = jax.vmap(lambda one: self._student.init(one, image, ()))(keys)
      statistics = jax.tree.map(lambda x: x.astype(dtype), variables['batch_stats'])
      return variables['params'], statistics

    shapes: tuple[Any, Any] = jax.eval_shape(begin)
    return shapes

  def _moments_shapes(self, of_maps: bool = False) -> _Stages:
    """Of what `standardize` takes for each stage's channels, or for a map of each."""
    found: _Stages = {}
    for k in self.stages:
      one = jax.ShapeDtypeStruct((1 if of_maps else self._extractor.channels(k),), np.float32)
      found[f'stage{k}'] = {'mean': one, 'deviation': one}
    return found

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{k: error plus variance, each less its mean and over its deviation in training}."""
    raw = self._raw_maps(params, features, images)
    maps = {}
    for k in self.stages:
      error, variance = (
        standardize(raw[name][f'stage{k}'], params[name][f'stage{k}'])
        for name in ('error', 'variance')
      )
      maps[k] = error + variance
    return maps

  def loss(
    self, params: Any, batch_stats: Any, images: jax.Array, features: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """The sum of what each student would have alone, so that none feels the others.

    Args:
      params: parameters of all students, leaves [M, ...].
      batch_stats: {'students': their running statistics, leaves [M, ...]; 'target': mean and
        deviation of the teacher's channels, which stay as they are}.
      images: the images of the batch, [B, H, W, 3], normalised.
      features: the teacher's stages, [B, H_k, W_k, C_k].

    Returns:
      (loss, ({name: mean over the students, which is logged}, new batch_stats)).
    """

    def learn(params: Any, statistics: Any) -> tuple[dict[str, jax.Array], Any]:
      distilled, updates = self._student.apply(
        {'params': params, 'batch_stats': statistics},
        images,
        features,
        train=True,
        mutable=['batch_stats'],
      )
      errors = {}
      for k in self.stages:
        target = batch_stats['target'][f'stage{k}']
        apart = regressed(distilled.features[k], target) - standardize(features[k - 1], target)
        errors[f'stage{k}'] = jnp.mean(jnp.sum(apart**2, axis=-1))
      return errors, updates['batch_stats']

    # One after the other: mapped, they would be convolutions in groups.
    each_has = [
      learn(*jax.tree.map(lambda x, i=i: x[i], (params, batch_stats['students'])))
      for i in range(self._config.method.students)
    ]
    errors, statistics = jax.tree.map(lambda *found: jnp.stack(found), *each_has)
    each = functools.reduce(jnp.add, errors.values())
    terms = {'loss': each} | errors
    return jnp.sum(each), (
      {name: jnp.mean(term) for name, term in terms.items()},
      {'students': statistics, 'target': batch_stats['target']},
    )

  def _raw_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[str, _Stages]:
    """{'error', 'variance': {'stage<k>': [B, H_k, W_k]}}."""
    seen = self._extractor.normalize(images)
    given: list[Any] = [
      self._folded.apply({'params': params[f'student{i}']}, seen, features)
      for i in range(self._config.method.students)
    ]
    raw: dict[str, _Stages] = {'error': {}, 'variance': {}}
    for k in self.stages:
      target = params['target'][f'stage{k}']
      students = [regressed(one.features[k], target) for one in given]
      error, variance = error_and_variance(standardize(features[k - 1], target), students)
      raw['error'][f'stage{k}'], raw['variance'][f'stage{k}'] = error, variance
    return raw

  @functools.cached_property
  def _descent(self) -> 'Descent':
    """What trains; optimizers and checkpoints are imported where something is trained."""
    import optax

    from memkd_jax.methods.descent import Descent

    train = self._config.train
    # The decay goes through Adam, as torch's does, which the authors have.
    optimizer = optax.chain(
      optax.add_decayed_weights(train.weight_decay), optax.adam(train.learning_rate)
    )
    return Descent(
      self._config,
      self._extractor,
      self._devices,
      loss=self.loss,
      optimizer=optimizer,
      depth=max(self.stages),
      axis_name=self._student.axis_name,
    )

  @functools.cached_property
  def _teacher_moments(self) -> Any:
    """Pmapped `(nothing, teacher_params, batch) -> moments` of the teacher's channels."""

    def look(nothing: Any, teacher_params: Any, batch: Any) -> _Stages:
      features = self._descent.teacher.of_batch(teacher_params, batch, max(self.stages))
      return {f'stage{k}': moments(features[k - 1]) for k in self.stages}

    return self._devices.map(look)

  @functools.cached_property
  def _maps_moments(self) -> Any:
    """Pmapped `(params, teacher_params, batch) -> moments` of the maps."""

    def look(params: Any, teacher_params: Any, batch: Any) -> dict[str, _Stages]:
      features = self._descent.teacher.of_batch(teacher_params, batch, max(self.stages))
      raw = self._raw_maps(params, features, batch.images)
      return jax.tree.map(lambda x: moments(x[..., None]), raw)

    return self._devices.map(look)

  def _begin(self, task: Task, images: np.ndarray, cache: 'FeatureCache') -> 'TrainState':
    """Students drawn from a key each, and what the teacher's channels are in training."""
    image = jnp.zeros((1, *images.shape[1:3], 3), self._extractor.dtype)
    key = jax.random.key(category_seed(task.seed, task.name))
    keys = jax.random.split(key, self._config.method.students)
    variables = jax.jit(jax.vmap(lambda one: self._student.init(one, image, ())))(keys)
    dtype = param_dtype(self._extractor.dtype)
    statistics = jax.tree.map(lambda x: x.astype(dtype), variables['batch_stats'])
    found = self._descent.over_images(cache, self._teacher_moments, {})
    target = over_all_images(found)
    return self._descent.begin(variables['params'], {'students': statistics, 'target': target})


def error_and_variance(
  teacher: jax.Array, students: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """The paper's equations for regression error and predictive uncertainty (section 3.3).

  e = |mean_i S_i - T|^2, v = mean_i |S_i|^2 - |mean_i S_i|^2, sums over the channels.

  Args:
    teacher: T, features of the teacher, [B, H, W, C].
    students: S_1, ..., S_M, of the same shape.

  Returns:
    (e, v), [B, H, W] each.
  """
  given = jnp.stack(students)
  mean = jnp.mean(given, axis=0)
  # The same as the difference of squares, which float32 would round to less than nothing.
  variance = jnp.mean(jnp.sum((given - mean) ** 2, axis=-1), axis=0)
  return jnp.sum((mean - teacher) ** 2, axis=-1), variance


def regressed(values: jax.Array, target: Any) -> jax.Array:
  """What a student says of `standardize(teacher, target)`, float32 at least.

  But for a projection it ends in a ReLU as the teacher does, whose zeros are at
  -mean / deviation there.

  Args:
    values: the student's features, [..., C].
    target: mean and deviation of the teacher's channels, {'mean': [C], 'deviation': [C]}.
  """
  values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
  return values - target['mean'] / target['deviation']
