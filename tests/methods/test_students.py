"""Students against loops and scikit-learn; what a training depends on; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.methods.standardization import moments, over_all_images
from memkd_jax.methods.students import error_and_variance
from memkd_jax.runtime.devices import Devices

BOLT = Task.of_category('bolt', 0)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def tiny(make_config, folder):
  config = methods.get_config('folder', 'students')
  like = make_config(folder)
  config.data = like.data
  config.model.backbone, config.model.teacher_weights = 'tiny_basic', like.model.teacher_weights
  config.train.epochs, config.train.batch_size, config.train.checkpoint_steps = 4, 8, 2
  config.eval.batch_size = 4
  config.method.stages, config.method.students = (1, 2), 2
  return config


@pytest.fixture
def config(make_config, tmp_path):
  return tiny(make_config, tmp_path)


@pytest.fixture(scope='module')
def method(make_config, make_method, tmp_path_factory):
  """Its programs are compiled once."""
  config = tiny(make_config, tmp_path_factory.mktemp('data'))
  config.parallel.axis = 'category'  # so that the loss can be called outside of a map
  return make_method(config, Devices(jax.devices()[:1]))


@pytest.fixture(scope='module')
def params(method, tmp_path_factory):
  fitted = method.fit(BOLT, IMAGES, tmp_path_factory.mktemp('whole'))
  assert fitted.diagnosis == {}
  assert fitted.unfolding is None
  return fitted.params


def teacher_features(method, images):
  return method._extractor(method._extractor.params, images, 2)


def begin(method, images=IMAGES, task=BOLT):
  return method._begin(task, images, method._descent.teacher.cache(images))


def test_statistics_are_those_of_all_positions(rng):
  features = rng.normal(3, 2, (7, 4, 5, 6)).astype(np.float32)
  features[..., 2] = 1.5  # a channel that never changes
  parts = [{'stage1': jax.device_get(moments(part))} for part in np.split(features, [3, 5])]
  found = over_all_images(parts)['stage1']
  expected = StandardScaler().fit(features.reshape(-1, 6).astype(np.float64))
  np.testing.assert_allclose(found['mean'], expected.mean_, rtol=1e-6)
  np.testing.assert_allclose(found['deviation'], expected.scale_, rtol=1e-6)
  assert found['deviation'][2] == 1


@pytest.mark.parametrize('number', [1, 3])
def test_error_and_variance_are_those_of_loops(rng, number):
  teacher = rng.normal(size=(2, 3, 4, 5))
  students = [rng.normal(size=teacher.shape) for _ in range(number)]
  error, variance = np.empty((2, 3, 4)), np.empty((2, 3, 4))
  for place in np.ndindex(2, 3, 4):
    mean = np.mean([student[place] for student in students], axis=0)
    error[place] = sum((mean - teacher[place]) ** 2)
    squares = [sum(student[place] ** 2) for student in students]
    variance[place] = np.mean(squares) - sum(mean**2)
  found = error_and_variance(jnp.asarray(teacher), [jnp.asarray(x) for x in students])
  np.testing.assert_allclose(found[0], error, rtol=1e-4)
  np.testing.assert_allclose(found[1], variance, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_squared_error_of_normalised_features(method):
  state = begin(method)
  target = state.batch_stats['target']
  features = teacher_features(method, IMAGES[:8])
  images = method._extractor.normalize(IMAGES[:8])
  total, (terms, _) = jax.jit(method.loss)(state.params, state.batch_stats, images, features)
  expected = []
  for i in range(2):
    variables = {
      'params': jax.tree.map(lambda x, i=i: x[i], state.params),
      'batch_stats': jax.tree.map(lambda x, i=i: x[i], state.batch_stats['students']),
    }
    given, _ = method._student.apply(variables, images, (), train=True, mutable=['batch_stats'])
    for k in (1, 2):
      of = {name: values.astype(np.float64) for name, values in target[f'stage{k}'].items()}
      scaled = (np.asarray(features[k - 1]) - of['mean']) / of['deviation']
      # A student's zero is the teacher's.
      said = np.asarray(given.features[k]) - of['mean'] / of['deviation']
      expected.append(((said - scaled) ** 2).sum(-1).mean())
  assert float(total) == pytest.approx(sum(expected), rel=1e-4)
  assert float(terms['loss']) == pytest.approx(sum(expected) / 2, rel=1e-4)
  assert float(terms['stage2']) == pytest.approx((expected[1] + expected[3]) / 2, rel=1e-4)


@pytest.mark.newest
def test_each_student_learns_as_alone(method):
  """The gradient of one is the same whatever the other is."""
  state = begin(method)
  inputs = method._extractor.normalize(IMAGES[:4]), teacher_features(method, IMAGES[:4])

  def gradient(order):
    params, students = (
      jax.tree.map(lambda x: x[np.array(order)], tree)
      for tree in (state.params, state.batch_stats['students'])
    )
    statistics = {'students': students, 'target': state.batch_stats['target']}
    grads, _ = jax.grad(method.loss, has_aux=True)(params, statistics, *inputs)
    return grads

  both, twice = gradient([0, 1]), gradient([0, 0])
  for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(twice), strict=True):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-3, atol=1e-3 * np.abs(a).max())
  assert any(np.abs(x[0] - x[1]).max() > 1e-3 for x in jax.tree.leaves(both))


def test_maps_are_those_of_a_slow_twin(method, params):
  features = teacher_features(method, IMAGES)
  seen = method._extractor.normalize(IMAGES)
  given = [
    method._folded.apply({'params': params[f'student{i}']}, seen, ()).features for i in range(2)
  ]
  maps = method.maps(params, features, IMAGES)
  assert list(maps) == [1, 2]
  for k in (1, 2):
    rows = np.asarray(features[k - 1], np.float64)
    scaler = StandardScaler().fit(rows.reshape(-1, rows.shape[-1]))
    teacher = (rows - scaler.mean_) / scaler.scale_
    students = [np.asarray(g[k], np.float64) - scaler.mean_ / scaler.scale_ for g in given]
    mean = np.mean(students, axis=0)
    error = ((mean - teacher) ** 2).sum(-1)
    variance = sum(((s - mean) ** 2).sum(-1) for s in students) / 2
    expected = sum((x - x.mean()) / x.std() for x in (error, variance))
    np.testing.assert_allclose(maps[k], expected, atol=1e-3)
    for name, values in (('error', error), ('variance', variance)):
      of = params[name][f'stage{k}']
      assert of['mean'][0] == pytest.approx(values.mean(), rel=1e-3)
      assert of['deviation'][0] == pytest.approx(values.std(), rel=1e-3)
      assert values.std() > 0


def test_a_resumed_training_ends_as_an_undisturbed_one(method, params, tmp_path, monkeypatch):
  descent = method._descent
  step, taken = descent.train_step, []

  def fails_at_the_fourth(*arguments):
    taken.append(None)
    if len(taken) == 4:
      raise OSError('the device is gone')
    return step(*arguments)

  monkeypatch.setitem(vars(descent), 'train_step', fails_at_the_fourth)
  with pytest.raises(OSError, match='the device is gone'):
    method.fit(BOLT, IMAGES, tmp_path)
  again = method.fit(BOLT, IMAGES, tmp_path).params
  assert len(taken) == 4 + 3  # five steps, from the checkpoint of step 2
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_students_depend_on_seed_and_number(method):
  one, again = begin(method), begin(method)
  jax.tree.map(np.testing.assert_array_equal, one, again)
  other = begin(method, task=Task.of_category('bolt', 1))
  stages = [state.params['encoder_stage1'] for state in (one, other)]
  kernels = [stage['block0']['conv1']['conv']['kernel'] for stage in stages]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
  assert np.abs(kernels[0][0] - kernels[0][1]).max() > 1e-3


def test_the_target_does_not_depend_on_the_order_of_images(method):
  one = begin(method).batch_stats['target']
  other = begin(method, IMAGES[::-1].copy()).batch_stats['target']
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


def test_training_lowers_the_loss_and_moves_what_it_should(method):
  state = begin(method)
  descent = method._descent
  cache = descent.teacher.cache(IMAGES)
  on_device, losses = descent._devices.replicate(state), []
  for _ in range(12):
    inputs = descent.inputs(cache, np.arange(8))
    on_device, terms = descent.train_step(on_device, *inputs)
    losses.append(float(terms['loss'][0]))
  assert losses[-1] < losses[0]
  new = descent._devices.unreplicate(on_device)
  jax.tree.map(
    np.testing.assert_array_equal, new.batch_stats['target'], state.batch_stats['target']
  )
  learned = [jax.tree.leaves((s.params, s.batch_stats['students'])) for s in (state, new)]
  assert all(np.abs(a - b).max() > 0 for a, b in zip(*learned, strict=True))


def test_one_and_four_devices_take_the_same_step(config, make_method):
  config.method.stages = (1,)
  found = []
  for number in (1, 4):
    devices = Devices(jax.devices()[:number])
    method = make_method(config, devices)
    descent = method._descent
    state = devices.replicate(begin(method))
    inputs = descent.inputs(descent.teacher.cache(IMAGES), np.arange(8))
    state, terms = devices.unreplicate(descent.train_step(state, *inputs))
    found.append((state.batch_stats, terms))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *found)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('method.stages', (), 'at least one'),
    ('method.students', 0, 'students=0'),
    ('model.student', 'vgg', 'student=vgg'),
    ('train.weight_decay', -1.0, 'weight_decay=-1.0'),
  ],
)
def test_what_cannot_be_is_refused(config, field, value, message):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    methods.resolve(config)


def test_students_and_devices_that_do_not_fit_are_refused(config, make_method):
  config.train.batch_size = 6
  with pytest.raises(UserError, match=r'train\.batch_size=6 cannot be split equally over 4'):
    make_method(config, Devices())
  config.model.student = 'tiny_bottleneck'
  with pytest.raises(UserError, match='student=tiny_bottleneck: its stages have'):
    make_method(config, Devices(jax.devices()[:1]))
