"""What a step takes is known before the images are: the shapes are those of a training."""

import jax
import numpy as np
import pytest

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor

CANVAS = (32, 32, 3)


def make(name, devices, **fields):
  config = methods.get_config('folder', name)
  config.model.backbone, config.model.teacher_weights = 'tiny_basic', base.RANDOM_TEACHER
  config.data.image_size, config.train.batch_size = 32, 8
  config.update_from_flattened_dict(fields)
  config = methods.resolve(config)
  extractor = FeatureExtractor('tiny_basic', base.RANDOM_TEACHER, config.model.dtype)
  return config, extractor, methods.create(config, extractor, devices)


def shapes_of(tree):
  return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)


def test_they_are_those_of_a_training(rng):
  devices = Devices(jax.devices()[:2])
  fields = {
    'train.cache_features': 'device',
    'train.schedule': 'cosine',
    'loss.hard_mining': True,
  }
  _, _, method = make('memkd', devices, **fields)
  images = rng.integers(0, 256, (17, *CANVAS), dtype=np.uint8)
  task, trainer = Task.of_category('bolt', 0), method.trainer
  state = devices.replicate(trainer.init_state(task, images))
  found = trainer.inputs(trainer.teacher.cache(images), *trainer.draw(task, 17, 0))
  _, (state_shapes, *others) = method.step_shapes(CANVAS)
  assert shapes_of(state_shapes) == shapes_of(state)
  assert shapes_of(others[:-1]) == shapes_of(list(found))
  assert shapes_of(others[-1]) == shapes_of(trainer.course(task, 3, 9))
  assert len(others[1].features) == 4


def test_without_a_cache_no_features_are_taken():
  _, _, method = make('rd', Devices(jax.devices()[:2]), **{'train.cache_features': 'off'})
  _, (_, _, batch, exemplars, _) = method.step_shapes(CANVAS)
  assert (batch.features, exemplars) == (None, None)
  assert batch.images.shape == (2, 4, *CANVAS)


@pytest.mark.parametrize(
  'name',
  [
    'ensemble',
    'cfa',
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('memmkd', 'students')),
  ],
)
def test_steps_and_scores_can_be_traced(name):
  devices = Devices(jax.devices()[:1])
  config, extractor, method = make(name, devices)
  step, given = method.step_shapes(CANVAS)
  state, terms = jax.eval_shape(step, *given)
  assert shapes_of(state) == shapes_of(given[0])
  assert terms['loss'].shape == (1,)
  pipeline = Pipeline(extractor, method, **config.anomaly_map.to_dict())
  images = jax.ShapeDtypeStruct((4, *CANVAS), np.uint8)
  found = jax.eval_shape(pipeline.score, method.param_shapes(CANVAS), extractor.params, images)
  assert [x.shape for x in found] == [(4, 32, 32), (4,)]


@pytest.mark.parametrize('name', ['knn', 'padim', 'spade', 'patchcore'])
def test_methods_without_steps_have_none(name):
  config = methods.get_config('folder', name)
  config.model.backbone, config.model.teacher_weights = 'tiny_basic', base.RANDOM_TEACHER
  config = methods.resolve(config)
  extractor = FeatureExtractor('tiny_basic', base.RANDOM_TEACHER)
  method = methods.create(config, extractor, Devices(jax.devices()[:1]))
  assert method.step_shapes(CANVAS) is None
  assert method.param_shapes(CANVAS) is None
