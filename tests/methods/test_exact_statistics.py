"""train.norm_statistics=exact: what is evaluated is what was trained."""

import jax
import numpy as np
import pytest

from memkd_jax import methods
from memkd_jax.methods.base import Task
from memkd_jax.ops.cosine import cosine_distances
from memkd_jax.runtime.devices import Devices

pytestmark = pytest.mark.newest

BOLT = Task.of_category('bolt', seed=0)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def config(tiny_config):
  """A batch is the whole set, and a rate at which parameters move fast."""
  tiny_config.model.paradigm, tiny_config.model.memories = 'forward', ()
  tiny_config.train.batch_size, tiny_config.train.epochs = len(IMAGES), 3
  tiny_config.train.learning_rate = 0.05
  return tiny_config


def fit(make_method, config, folder, number_of_devices=1):
  """The fitted method, and the parameters that it gives."""
  method = make_method(config, Devices(jax.devices()[:number_of_devices]))
  return method, method.fit(BOLT, IMAGES, folder).params


def maps_of(method, params):
  features = method.extractor(method.extractor.params, IMAGES, 3)
  return jax.device_get(method.maps(params, features, IMAGES))


def trained_maps(method, folder):
  """The maps of the whole set as the last parameters give them in training."""
  trainer = method.trainer
  state, _ = trainer.train(BOLT, IMAGES, folder)
  features = method.extractor(method.extractor.params, IMAGES, 3)
  distilled, _ = method.distiller.clone(axis_name=None).apply(
    {'params': state.params, 'batch_stats': state.batch_stats},
    method.extractor.normalize(IMAGES),
    features,
    train=True,
    mutable=['batch_stats'],
  )
  numbered = dict(enumerate(features, start=1))
  return jax.device_get(cosine_distances(numbered, distilled.features))


def apart(a, b):
  return max(float(np.abs(a[k] - b[k]).max()) for k in a)


def test_maps_are_those_of_training(make_method, config, tmp_path):
  config.train.norm_statistics = 'running'
  method, running = fit(make_method, config, tmp_path)
  wanted = trained_maps(method, tmp_path)
  assert apart(maps_of(method, running), wanted) > 0.02  # the reason for the field
  config.train.norm_statistics = 'exact'
  method, exact = fit(make_method, config, tmp_path)  # goes on behind the last step
  assert apart(maps_of(method, exact), wanted) < 1e-4


def test_devices_and_a_second_fit_agree(make_method, config, tmp_path):
  config.train.norm_statistics = 'exact'
  _, one = fit(make_method, config, tmp_path / 'one')
  _, again = fit(make_method, config, tmp_path / 'one')
  _, four = fit(make_method, config, tmp_path / 'four', 4)
  for a, b, c in zip(*map(jax.tree.leaves, (one, again, four)), strict=True):
    assert a.tobytes() == b.tobytes()
    np.testing.assert_allclose(a, c, atol=2e-3)


def test_noise_of_the_training_is_not_looked_at(make_method, tiny_config, tmp_path):
  """Nothing disturbs what a finished model sees, so nothing disturbs its statistics."""
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  tiny_config.train.batch_size, tiny_config.train.epochs = len(IMAGES), 1
  tiny_config.train.norm_statistics, tiny_config.train.learning_rate = 'exact', 1e-12
  _, clean = fit(make_method, tiny_config, tmp_path / 'clean')
  tiny_config.train.feature_noise, tiny_config.loss.hard_mining = 'gaussian', True
  _, noisy = fit(make_method, tiny_config, tmp_path / 'noisy')
  for a, b in zip(*map(jax.tree.leaves, (clean, noisy)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_students_keep_what_is_not_a_statistic(make_method, make_config, tmp_path):
  config, like = methods.get_config('folder', 'students'), make_config(tmp_path)
  config.data, config.train.epochs, config.train.batch_size = like.data, 2, len(IMAGES)
  config.model.backbone, config.model.teacher_weights = 'tiny_basic', like.model.teacher_weights
  config.method.stages, config.method.students = (1,), 2
  config.train.norm_statistics = 'exact'
  method, params = fit(make_method, config, tmp_path)
  begun = method._begin(BOLT, IMAGES, method._descent.teacher.cache(IMAGES))
  target = begun.batch_stats['target']
  assert jax.tree.map(np.array_equal, params['target'], target) == jax.tree.map(
    lambda _: True, target
  )


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('memkd', 'running'),
    ('rd', 'running'),
    ('ensemble', 'running'),
    ('memmkd', 'exact'),
    ('mkd', 'exact'),
    ('students', 'running'),
  ],
)
def test_what_auto_stands_for(name, expected):
  config = methods.get_config('mvtec_ad', name)
  assert methods.resolve(config).train.norm_statistics == expected
  for given in ('running', 'exact'):
    config.train.norm_statistics = given
    assert methods.resolve(config).train.norm_statistics == given


def test_auto_follows_the_paradigm():
  for name in ('memkd', 'ensemble'):
    config = methods.get_config('mvtec_ad', name)
    config.model.paradigm = 'forward'
    assert methods.resolve(config).train.norm_statistics == 'exact'
