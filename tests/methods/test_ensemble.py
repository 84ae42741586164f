"""A student and nearest neighbours together are the sum of both, in units of normal images."""

import jax
import numpy as np
import pytest

from memkd_jax import methods
from memkd_jax.config import of_older
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Start, Task
from memkd_jax.ops.resampling import upsample

pytestmark = pytest.mark.newest

BOLT = Task.of_category('bolt', 0)


def config_of(tiny_config, method):
  """That of a method with the tiny config's values where both have a field."""
  config = methods.get_config('folder', method)
  for section in ('data', 'model', 'train', 'eval'):
    shared = {k: v for k, v in tiny_config[section].items() if k in config[section]}
    config[section].update(shared)
  return config


def test_maps_are_those_of_its_members(tiny_config, one_device, make_method, tmp_path, rng):
  images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
  tiny_config.model.memories = ()
  method = make_method(config_of(tiny_config, 'ensemble'), one_device)
  assert (method.name, method.stages) == ('RD + PatchCore', (1, 2, 3))
  params, diagnosis, _ = method.fit(BOLT, images, tmp_path / 'ensemble')
  student = method._student
  members = {}
  for name, stages in (('neighbours', (2, 3)), ('fine', (1,))):
    config = config_of(tiny_config, 'patchcore')
    config.method.stages = stages
    member = make_method(config, one_device)
    members[name] = member, member.fit(BOLT, images, tmp_path / name).params
    np.testing.assert_array_equal(params[name]['memory'], members[name][1]['memory'])
  assert diagnosis == {}
  features = student.extractor(student.extractor.params, images, 3)
  found = method.maps(params, features, images)
  of_stages = student.maps(params['student'], features, images)
  of_members = {
    name: member.maps(found, features, images)[0] for name, (member, found) in members.items()
  }
  raw = {
    0: of_members['neighbours'],
    # On the grid of stage 1, [8, 8].
    1: sum(upsample(m, (8, 8), True) for m in of_stages.values()),
    2: of_members['fine'],
  }
  assert list(found) == [0, 1, 2]
  for k, map_ in raw.items():
    values = np.asarray(map_, np.float64)  # of the very images that it has learned from
    expected = (values - values.mean()) / values.std()
    # Distances next to nothing are roots of rounding errors.
    np.testing.assert_allclose(found[k], expected, atol=1e-3)
  diagnosed, _ = method.diagnosed_maps(params, features, images)
  jax.tree.map(np.testing.assert_array_equal, diagnosed, found)


def test_models_that_are_older_than_the_second_coreset_have_one(
  tiny_config, one_device, make_method, tmp_path, rng
):
  images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
  config = config_of(tiny_config, 'ensemble')
  config.model.memories, config.method.fine_stages = (), ()
  method = make_method(config, one_device)
  params = method.fit(BOLT, images, tmp_path).params
  assert params.keys() == {'student', 'neighbours', 'usual'}
  config = methods.resolve(config)
  del config.method.fine_stages
  older = methods.create(config, method._student.extractor, one_device)
  features = method._student.extractor(method._student.extractor.params, images, 3)
  maps = [m.maps(params, features, images) for m in (method, older)]
  assert list(maps[0]) == [0, 1]
  jax.tree.map(np.testing.assert_array_equal, *maps)
  # So that a run from before does not go on with two.
  assert of_older(methods.fields('ensemble'))['method.fine_stages'] == ()


def test_a_warm_start_is_one_of_the_student(
  tiny_config, one_device, make_method, tmp_path, rng
):
  images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
  tiny_config.model.memories = ()
  method = make_method(config_of(tiny_config, 'ensemble'), one_device)
  params, _, unfolding = method.fit(BOLT, images, tmp_path / 'first')
  start = Start(params, unfolding, 'abc', tmp_path / 'first')
  further = method.fit(BOLT, images, tmp_path / 'further', start).params
  start = start._replace(params=params['student'])
  expected = method._student.fit(BOLT, images, tmp_path / 'student', start).params
  jax.tree.map(np.testing.assert_array_equal, further['student'], expected)


def test_a_product_of_its_maps_is_refused(tiny_config):
  config = config_of(tiny_config, 'ensemble')
  config.anomaly_map.combine = 'product'
  with pytest.raises(UserError, match=r'anomaly_map\.combine=product: .*is sum'):
    methods.resolve(config)
