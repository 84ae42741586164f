"""Gradients where they belong, the same on 1 and on 4 devices, and a fit that resumes."""

import functools
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from memkd_jax.data.sampling import batch_indices, exemplar_indices
from memkd_jax.errors import UserError
from memkd_jax.methods import teacher_features
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.training.step import Batch, TrainState

BOLT = Task.of_category('bolt', seed=0)


def draw_images(number):
  return np.random.default_rng(number).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def images():
  return draw_images(8)


@pytest.fixture(scope='module')
def one_step(make_config, make_method):
  """Takes a step of plain SGD at rate 1: a parameter changes by its gradient."""
  images, exemplars = draw_images(8), draw_images(4)

  @functools.cache  # most of the time goes into compiling
  def step(number_of_devices, paradigm, memories=(1, 2, 3), lambda_nm=0.3, lambda_orth=0.7):
    config = make_config(Path('unused'))
    config.model.paradigm, config.model.memories = paradigm, memories
    config.loss.lambda_nm, config.loss.lambda_orth = lambda_nm, lambda_orth
    devices = Devices(jax.devices()[:number_of_devices])
    method = make_method(config, devices)
    state = method.trainer.init_state(BOLT, images)
    optimizer = optax.sgd(1.0)
    state = TrainState(
      state.step, state.params, state.batch_stats, optimizer.init(state.params)
    )
    stepped = method.trainer.make_step(optimizer)
    new, terms = devices.unreplicate(
      devices.map(stepped)(
        devices.replicate(state),
        devices.replicate(method.extractor.params),
        Batch(devices.shard(images)),
        Batch(devices.shard(exemplars)) if memories else None,
      )
    )
    grads = jax.tree.map(lambda a, b: a - b, state.params, new.params)
    return grads, new.batch_stats, terms

  return step


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_one_and_four_devices_agree_in_float32(one_step, paradigm):
  one, four = (jax.tree.leaves(one_step(n, paradigm)) for n in (1, 4))
  assert len(one) == len(four) > 50
  for a, b in zip(one, four, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_batch_statistics_are_those_of_the_global_batch(
  one_step, tiny_config, make_method, one_device, images
):
  """Four devices with two images each must not normalise over two images."""
  _, statistics, _ = one_step(4, 'reverse')
  method = make_method(tiny_config, one_device)
  state = method.trainer.init_state(BOLT, images)
  distiller = method.distiller.clone(axis_name=None)

  @jax.jit
  def update(variables, images):
    features = method.extractor(method.extractor.params, images)
    return distiller.apply(variables, None, features, train=True, mutable=['batch_stats'])

  _, expected = update({'params': state.params, 'batch_stats': state.batch_stats}, images)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    statistics['bottleneck'],
    expected['batch_stats']['bottleneck'],
  )


def test_loss_is_the_weighted_sum_of_its_terms(one_step):
  _, _, terms = one_step(1, 'reverse')
  assert terms['kd'] == pytest.approx(sum(terms[f'kd_{k}'] for k in (1, 2, 3)))
  total = terms['kd'] + 0.3 * terms['nm'] + 0.7 * terms['orth']
  assert terms['loss'] == pytest.approx(total)
  assert min(terms['kd'], terms['nm'], terms['orth']) > 0


@pytest.mark.newest
@pytest.mark.parametrize(
  ('paradigm', 'memories', 'others'),
  [
    ('reverse', (1, 2, 3), ('bottleneck', 'student_stage1')),
    ('forward', (1, 2), ('stem', 'encoder_stage3')),
  ],
)
def test_gradients_flow_where_they_belong(one_step, paradigm, memories, others):
  """L_KD trains keys and values; L_NM values only; L_orth both."""
  without, _, _ = one_step(1, paradigm, lambda_nm=0.0, lambda_orth=0.0)
  with_nm, _, _ = one_step(1, paradigm, lambda_nm=1.0, lambda_orth=0.0)
  with_both, _, _ = one_step(1, paradigm)  # which other tests have compiled
  for m in memories:
    name = f'memory_m{m}'
    kd, nm, both = without[name], with_nm[name], with_both[name]
    # Gradients add up as the terms do: this is 0.7 times that of L_orth.
    orth = {part: both[part] - kd[part] - 0.3 * (nm[part] - kd[part]) for part in kd}
    assert np.abs(kd['keys']).max() > 0
    assert np.abs(kd['values']).max() > 0
    np.testing.assert_allclose(nm['keys'], kd['keys'], atol=1e-6)
    assert np.abs(nm['values'] - kd['values']).max() > 1e-5
    assert np.abs(orth['keys']).max() > 1e-5
    assert np.abs(orth['values']).max() > 1e-5
  # L_NM reaches nothing else: the exemplars' features are the frozen teacher's.
  for name in others:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), with_nm[name], without[name]
    )


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_without_memories_it_is_the_baseline(one_step, paradigm):
  grads, _, terms = one_step(1, paradigm, memories=())
  assert terms['loss'] == terms['kd']
  assert terms['nm'] == terms['orth'] == 0
  assert not [name for name in grads if name.startswith('memory')]


@pytest.mark.newest
@pytest.mark.parametrize(
  'kd', ['global_cosine', pytest.param('local_cosine', marks=pytest.mark.slow)]
)
def test_training_lowers_the_loss(tiny_config, images, one_device, make_method, kd):
  tiny_config.loss.kd = kd
  trainer = make_method(tiny_config, one_device).trainer
  state = one_device.replicate(trainer.init_state(BOLT, images))
  cache = trainer.teacher.cache(images)
  losses, statistics = [], []
  for step in range(8):  # eight epochs of one batch
    exemplars = exemplar_indices(0, 'bolt', 8, 4, step, 8)
    state, terms = trainer.train_step(state, *trainer.inputs(cache, np.arange(8), exemplars))
    losses.append(float(terms['loss'][0]))
    statistics.append(one_device.unreplicate(state.batch_stats))
  assert losses[-1] < 0.7 * losses[0]
  # BatchNorm stays in training mode after the first epoch.
  for before, after in itertools.pairwise(statistics):
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(changes)) > 0


def test_memories_can_start_from_exemplar_features(
  tiny_config, one_device, images, make_method
):
  tiny_config.model.memory_init = 'exemplars'
  method = make_method(tiny_config, one_device)
  params = method.trainer.init_state(BOLT, images).params
  chosen = images[exemplar_indices(0, 'bolt', 8, 4, 0, 8)]
  features = jax.jit(method.extractor)(method.extractor.params, chosen)
  rows = np.asarray(features[2]).reshape(-1, features[2].shape[-1])  # M_2 <- stage 3
  memory = params['memory_m2']
  np.testing.assert_array_equal(memory['keys'], memory['values'])
  distances = np.abs(memory['keys'][:, None] - rows).max(-1).min(-1)
  np.testing.assert_allclose(distances, 0, atol=1e-4)
  again = method.trainer.init_state(BOLT, images).params
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_initialisation_depends_on_the_category_and_the_seed(
  tiny_config, one_device, images, make_method
):
  trainer = make_method(tiny_config, one_device).trainer
  tasks = [BOLT, Task.of_category('nut', 0), Task.of_category('bolt', 1)]
  keys = [trainer.init_state(task, images).params['memory_m1']['keys'] for task in tasks]
  assert not np.array_equal(keys[0], keys[1])
  assert not np.array_equal(keys[0], keys[2])


def test_bfloat16_computes_in_it_and_keeps_float32(
  tiny_config, one_device, images, make_method
):
  losses, scores = [], []
  for dtype in ('float32', 'bfloat16'):
    tiny_config.model.dtype = dtype
    method = make_method(tiny_config, one_device)
    trainer = method.trainer
    state = one_device.replicate(trainer.init_state(BOLT, images))
    cache = trainer.teacher.cache(images)
    for step in range(4):
      exemplars = exemplar_indices(0, 'bolt', 8, 4, step, 8)
      state, terms = trainer.train_step(state, *trainer.inputs(cache, np.arange(8), exemplars))
      assert {x.dtype.name for x in jax.tree.leaves(terms)} == {'float32'}
      losses.append(float(terms['loss'][0]))
    trained = one_device.unreplicate(state)
    floats = [x for x in jax.tree.leaves(trained) if x.dtype != np.int32]
    assert {x.dtype.name for x in floats} == {'float32'}
    maps, score = jax.jit(Pipeline(method.extractor, method).score)(
      trainer.fold(trained), method.extractor.params, images[:4]
    )
    assert maps.dtype == np.float32
    scores.append(np.asarray(score))
  assert losses[:4] != losses[4:]
  np.testing.assert_allclose(losses[:4], losses[4:], rtol=0.03)
  np.testing.assert_allclose(scores[0], scores[1], rtol=0.1)


@pytest.fixture
def cheap_config(tiny_config):
  """One stage without memories, which compiles faster."""
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  return tiny_config


@pytest.fixture
def built_caches(monkeypatch):
  """How many images each cache that is built holds."""
  built, build = [], teacher_features.build_cache

  def counting(devices, compute, images, shapes, **options):
    built.append(len(images))
    return build(devices, compute, images, shapes, **options)

  monkeypatch.setattr(teacher_features, 'build_cache', counting)
  return built


def losses_of(folder):
  return [json.loads(line)['loss'] for line in (folder / 'metrics.jsonl').open()]


def test_a_fit_resumes(
  tiny_config, one_device, images, make_method, tmp_path, monkeypatch, built_caches
):
  """Stopped by a step that fails, and begun again, it ends as an undisturbed one."""
  tiny_config.train.epochs, tiny_config.train.checkpoint_steps = 6, 2
  tiny_config.seeds = (0, 1)
  method = make_method(tiny_config, one_device)
  drawn, inputs = [], method.trainer.inputs
  monkeypatch.setattr(
    method.trainer, 'inputs', lambda *given: (drawn.append(given[1:]), inputs(*given))[1]
  )
  whole = method.fit(BOLT, images, tmp_path / 'whole')
  assert len(drawn) == 6
  for number, (batch, exemplars) in enumerate(drawn):
    np.testing.assert_array_equal(batch, batch_indices(0, 'bolt', 8, 8, number))
    np.testing.assert_array_equal(exemplars, exemplar_indices(0, 'bolt', 8, 4, number, 8))
  assert set(whole.diagnosis) == {'m1', 'm2', 'm3'}
  assert json.loads(json.dumps(whole.diagnosis)) == whole.diagnosis
  assert 1 <= whole.diagnosis['m1']['used_items'] <= 5

  step, taken = method.trainer.train_step, []

  def fails_at_the_fourth(*arguments):
    taken.append(None)
    if len(taken) == 4:
      raise OSError('the device is gone')
    return step(*arguments)

  monkeypatch.setitem(vars(method.trainer), 'train_step', fails_at_the_fourth)
  with pytest.raises(OSError, match='the device is gone'):
    method.fit(BOLT, images, tmp_path / 'stopped')
  again = method.fit(BOLT, images, tmp_path / 'stopped')
  assert len(taken) == 4 + 4  # from the checkpoint of step 2
  jax.tree.map(np.testing.assert_array_equal, whole, again)
  losses = losses_of(tmp_path / 'whole')
  assert losses == losses_of(tmp_path / 'stopped')
  assert len(losses) == 6

  finished = method.fit(BOLT, images, tmp_path / 'stopped')  # takes no step more
  assert len(taken) == 8
  jax.tree.map(np.testing.assert_array_equal, whole, finished)
  other_seed = method.fit(Task.of_category('bolt', seed=1), images, tmp_path / 'seed_1')
  assert losses_of(tmp_path / 'seed_1')[0] != losses[0]
  assert other_seed.diagnosis != whole.diagnosis
  assert built_caches == [8]  # once for all of these fits
  with pytest.raises(UserError, match='began with other training images'):
    method.fit(BOLT, np.ascontiguousarray(images[::-1]), tmp_path / 'stopped')


@pytest.mark.parametrize(('seeds', 'kept'), [((0, 1), True), ((0,), False)])
def test_seeds_share_the_features_of_the_same_images(
  cheap_config, one_device, images, make_method, built_caches, seeds, kept
):
  cheap_config.seeds = seeds
  trainer = make_method(cheap_config, one_device).trainer
  first, second = (trainer.teacher.cache(images.copy()) for _ in range(2))
  assert (first is second) == kept
  trainer.teacher.cache(np.ascontiguousarray(images[::-1]))
  trainer.teacher.cache(images[:7])
  assert built_caches == ([8, 8, 7] if kept else [8, 8, 8, 7])


def test_too_few_images_are_refused(cheap_config, one_device, images, make_method, tmp_path):
  cheap_config.train.epochs, cheap_config.train.batch_size = 1, 16
  with pytest.raises(UserError, match=r'bolt: 8 images in 1 epochs fill no batch of 16; raise'):
    make_method(cheap_config, one_device).fit(BOLT, images, tmp_path)


@pytest.mark.newest
def test_what_stops_being_finite_is_named(
  cheap_config, one_device, images, make_method, tmp_path
):
  """The learning rate is blamed, unless the teacher's features are broken already."""
  method = make_method(cheap_config, one_device)
  method.config.train.learning_rate = 1e38  # more than a config may have
  with pytest.raises(UserError, match=r'bolt: training stopped at step \d.*learning_rate'):
    method.fit(BOLT, images, tmp_path / 'rate')
  method = make_method(cheap_config, one_device)
  broken = jax.tree.map(np.copy, method.extractor.params)
  broken['stage2']['block0']['conv2']['conv']['bias'][0] = np.nan
  method.extractor.params = broken
  message = r"where the teacher's stage 2 was the first that .* Check random and the machine\."
  with pytest.raises(UserError, match=message):
    method.fit(BOLT, images, tmp_path / 'teacher')
