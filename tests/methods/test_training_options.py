"""What a training may do beside the paper's: one step of each, and the rule that ends it."""

import json

import jax
import numpy as np
import optax
import pytest

from memkd_jax.data.sampling import holdout_indices, image_seeds
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.ops.cosine import cosine_similarity
from memkd_jax.runtime.devices import Devices
from memkd_jax.training.schedule import rate_factor
from memkd_jax.training.step import Batch, Course, TrainState

pytestmark = pytest.mark.newest

BOLT = Task.of_category('bolt', seed=0)


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def cheap_config(tiny_config):
  """One stage without memories, which compiles faster."""
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  return tiny_config


def gradients(method, devices, images, course):
  """A step of plain SGD at rate 1, of the whole set: a parameter changes by its gradient."""
  state, optimizer = method.trainer.init_state(BOLT, images), optax.sgd(1.0)
  state = TrainState(state.step, state.params, state.batch_stats, optimizer.init(state.params))
  step = devices.map(method.trainer.make_step(optimizer))
  new, terms = devices.unreplicate(
    step(
      devices.replicate(state),
      devices.replicate(method.extractor.params),
      Batch(devices.shard(images)),
      Batch(devices.shard(images)) if method.slots else None,
      course,
    )
  )
  return jax.tree.map(lambda a, b: a - b, state.params, new.params), terms


def difference(a, b):
  return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def test_by_default_a_step_takes_nothing_else(tiny_config, one_device, make_method):
  trainer = make_method(tiny_config, one_device).trainer
  assert [jax.tree.leaves(trainer.course(BOLT, step, 100)) for step in (0, 50, 99)] == [[]] * 3


def test_the_course_of_a_training(tiny_config, make_method):
  tiny_config.train.schedule, tiny_config.train.warmup = 'cosine', 0.2
  tiny_config.train.feature_noise, tiny_config.loss.hard_mining = 'gaussian', True
  tiny_config.loss.easy_share = 0.8
  trainer = make_method(tiny_config, Devices(jax.devices()[:2])).trainer
  for step, easy in ((0, 0), (5, 0.4), (10, 0.8), (99, 0.8)):
    course = trainer.course(BOLT, step, 100)
    np.testing.assert_allclose(course.easy, [easy] * 2, rtol=1e-6)
    np.testing.assert_allclose(
      course.rate, [rate_factor('cosine', 0.2, step, 100)] * 2, rtol=1e-6
    )
    seeds = image_seeds(0, 'bolt', step, 8)
    np.testing.assert_array_equal(course.seeds, seeds.reshape(2, 4))
    assert len(set(seeds.tolist())) == 8


DISTURBED = {
  'noise': {'train.feature_noise': 'simplex'},
  'dropout': {'model.bottleneck_dropout': 0.5},
  'mining': {'loss.hard_mining': True},
  'adapted': {'model.adapt_teacher': True, 'loss.hard_mining': True},
}


@pytest.mark.parametrize(
  'name',
  [
    'noise',
    'adapted',
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('dropout', 'mining')),
  ],
)
def test_one_and_four_devices_take_the_same_step(cheap_config, make_method, images, name):
  cheap_config.update_from_flattened_dict(DISTURBED[name])
  found = []
  for number in (1, 4):
    devices = Devices(jax.devices()[:number])
    method = make_method(cheap_config, devices)
    found.append(gradients(method, devices, images, method.trainer.course(BOLT, 50, 100)))
  assert difference(*found) < 1e-5


@pytest.mark.parametrize('name', ['noise', 'dropout', 'mining'])
def test_what_disturbs_changes_the_step(cheap_config, make_method, one_device, images, name):
  """Other seeds are another step; noise of size 0, and a factor of 1, are none."""
  plain, _ = gradients(make_method(cheap_config, one_device), one_device, images, Course())
  cheap_config.update_from_flattened_dict(DISTURBED[name])
  cheap_config.train.noise_scale = cheap_config.loss.easy_factor = 1.0
  method = make_method(cheap_config, one_device)
  first, terms = gradients(method, one_device, images, method.trainer.course(BOLT, 50, 100))
  if name == 'mining':
    assert difference(first, plain) < 1e-7
    cheap_config.loss.easy_factor = 0.0
    method = make_method(cheap_config, one_device)
    first, mined = gradients(method, one_device, images, method.trainer.course(BOLT, 50, 100))
    np.testing.assert_allclose(mined['loss'], terms['loss'], rtol=1e-6)
    assert difference(first, plain) > 1e-5
    return
  assert difference(first, plain) > 1e-5
  second, _ = gradients(method, one_device, images, method.trainer.course(BOLT, 51, 100))
  assert difference(first, second) > 1e-5
  if name == 'noise':
    cheap_config.train.noise_scale = 0.0
    method = make_method(cheap_config, one_device)
    without, _ = gradients(method, one_device, images, method.trainer.course(BOLT, 50, 100))
    assert difference(without, plain) < 1e-7


def test_an_adapted_teacher_learns_slowly(cheap_config, make_method, one_device, images):
  """Adam's first step is the rate itself, wherever there is a gradient."""
  cheap_config.model.adapt_teacher, cheap_config.train.adapt_rate = True, 1e-4
  cheap_config.train.schedule = 'cosine'  # whose rise lasts a step here
  trainer = make_method(cheap_config, one_device).trainer
  state = trainer.init_state(BOLT, images)
  cache = trainer.teacher.cache(images)
  inputs = trainer.inputs(cache, np.arange(8), np.arange(4))
  course = trainer.course(BOLT, 0, 20)
  assert course.rate == 0.5
  new, terms = one_device.unreplicate(
    trainer.train_step(one_device.replicate(state), *inputs, course)
  )
  for name, rate in (('teacher', 1e-4), ('bottleneck', 0.005), ('adapted_head_stage3', 0.005)):
    moved = difference(new.params[name], state.params[name])
    np.testing.assert_allclose(moved, 0.5 * rate, rtol=0.02)
  assert terms['kd'] == terms['kd_3'] == terms['loss']


VARIANTS = {
  'aligned': {'model.memory_layout': 'aligned', 'loss.orth': 'cross', 'loss.hardest': 3},
  'disturbed': {
    'model.memories': (),
    'train.feature_noise': 'gaussian',
    'model.bottleneck_dropout': 0.2,
    'train.schedule': 'cosine',
  },
  'adapted': {'model.memories': (), 'model.adapt_teacher': True, 'loss.hard_mining': True},
}


@pytest.mark.parametrize(
  'name',
  ['disturbed', *(pytest.param(n, marks=pytest.mark.slow) for n in ('aligned', 'adapted'))],
)
def test_a_fit_lowers_the_loss(tiny_config, make_method, one_device, images, tmp_path, name):
  tiny_config.update_from_flattened_dict(VARIANTS[name])
  tiny_config.train.epochs = 12
  method = make_method(tiny_config, one_device)
  fitted = method.fit(BOLT, images, tmp_path)
  losses = [json.loads(line)['loss'] for line in (tmp_path / 'metrics.jsonl').open()]
  assert len(losses) == 12
  assert min(losses[-3:]) < 0.7 * losses[0]
  features = method.extractor(method.extractor.params, images)
  maps = jax.jit(method.maps)(fitted.params, features, images)
  assert all(np.isfinite(x).all() for x in maps.values())


@pytest.mark.parametrize('kd', ['global_cosine', 'local_cosine'])
def test_the_loss_of_watched_images(tiny_config, make_method, images, kd):
  """By hand, of the running statistics; the devices' last batch is filled up."""
  tiny_config.model.memories, tiny_config.loss.kd = (), kd
  devices = Devices(jax.devices()[:2])
  method = make_method(tiny_config, devices)
  trainer = method.trainer
  state = trainer.init_state(BOLT, images)
  found = trainer._watched_loss(trainer, images[:5], devices.replicate(state))
  features = method.extractor(method.extractor.params, images[:5])
  student = (
    method.distiller.clone(axis_name=None)
    .apply({'params': state.params, 'batch_stats': state.batch_stats}, None, features)
    .features
  )
  expected = []
  for i in range(5):
    total = 0.0
    for k, f in student.items():
      a, b = np.asarray(features[k - 1][i]), np.asarray(f[i])
      if kd == 'global_cosine':
        total += 1 - (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
      else:
        total += 1 - float(cosine_similarity(a, b).mean())
    expected.append(total)
  assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_plateau_ends_a_fit(cheap_config, make_method, one_device, tmp_path, monkeypatch):
  """The watched loss falls twice and then no more; an epoch is two steps of the images left."""
  images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
  train = cheap_config.train
  train.stop, train.stop_share, train.patience, train.epochs = 'plateau', 0.2, 3, 50
  method = make_method(cheap_config, one_device)
  trainer, watched = method.trainer, []
  course = iter([0.5, 0.4, 0.399, 0.41, 0.5, 0.1])

  def watched_loss(descent, images, state):
    watched.append(images)
    return next(course)

  monkeypatch.setattr(trainer, '_watched_loss', watched_loss)
  cached, cache = [], trainer.teacher.cache
  monkeypatch.setattr(trainer.teacher, 'cache', lambda x: (cached.append(x), cache(x))[1])
  fitted = method.fit(BOLT, images, tmp_path)
  kept, held = holdout_indices(0, 'bolt', 20, 0.2)
  np.testing.assert_array_equal(watched[0], images[held])
  np.testing.assert_array_equal(cached[0], images[kept])
  steps = [json.loads(line)['step'] for line in (tmp_path / 'plateau.jsonl').open()]
  assert steps == [2, 4, 6, 8, 10]
  assert json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])['step'] == 10
  again = method.fit(BOLT, images, tmp_path)  # takes no step, and looks at no image
  assert len(watched) == 5
  jax.tree.map(np.testing.assert_array_equal, fitted.params, again.params)
  with pytest.raises(UserError, match=r'a single image leaves none .*train\.stop=epochs'):
    method.fit(BOLT, images[:1], tmp_path / 'one')
