"""One step: gradients where they belong, and the same on 1 and on 4 devices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memkd_jax.methods.distillation import System
from memkd_jax.models.distillers import ForwardDistiller, ReverseDistiller
from memkd_jax.models.resnet import Teacher
from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.teachers import weights
from memkd_jax.training.step import Batch, TrainState, make_train_step, memory_targets


def reverse(**options):
  return ReverseDistiller('tiny_basic', memory_items=5, **options)


def forward(**options):
  return ForwardDistiller('tiny_basic', student='tiny_basic', memory_items=5, **options)


def one_step(
  number_of_devices,
  images,
  exemplars,
  memories=(3, 2, 1),
  lambda_nm=0.1,
  lambda_orth=0.1,
  kind=reverse,
):
  """A step of plain SGD at rate 1, so that the change of a parameter is its gradient."""
  devices = Devices(jax.devices()[:number_of_devices])
  teacher = Teacher('tiny_basic', stages=3)
  distiller = kind(memories=memories, axis_name=AXIS)
  slots = distiller.slots((1, 2, 3), memories)
  optimizer = optax.sgd(1.0)
  teacher_params = weights.random_teacher('tiny_basic')
  features = teacher.apply({'params': teacher_params}, jnp.zeros((1, 32, 32, 3)))
  variables = distiller.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), features)
  state = TrainState(
    jnp.zeros((), jnp.int32),
    variables['params'],
    variables['batch_stats'],
    optimizer.init(variables['params']),
  )
  step = make_train_step(
    teacher,
    Teacher('tiny_basic', stages=4),
    distiller,
    optimizer,
    {slot.memory: slot.target for slot in slots},
    kd='global_cosine',
    lambda_nm=lambda_nm,
    lambda_orth=lambda_orth,
  )
  new, terms = devices.map(step)(
    devices.replicate(state),
    devices.replicate(teacher_params),
    Batch(devices.shard(images)),
    Batch(devices.shard(exemplars)) if slots else None,
  )
  new, terms = devices.unreplicate((new, terms))
  grads = jax.tree.map(lambda a, b: np.asarray(a) - b, variables['params'], new.params)
  return grads, new.batch_stats, terms


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def exemplars(rng):
  return rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize('kind', [reverse, forward])
def test_one_and_four_devices_agree_in_float32(images, exemplars, kind):
  one, four = (one_step(n, images, exemplars, kind=kind) for n in (1, 4))
  flat_one, flat_four = jax.tree.leaves(one), jax.tree.leaves(four)
  assert len(flat_one) == len(flat_four) > 50
  for a, b in zip(flat_one, flat_four, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_batch_statistics_are_those_of_the_global_batch(images, exemplars):
  """Four devices with two images each must not normalise over two images."""
  _, statistics, _ = one_step(4, images, exemplars)
  features = Teacher('tiny_basic', stages=3).apply(
    {'params': weights.random_teacher('tiny_basic')},
    (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
  )
  distiller = reverse()
  variables = distiller.init(jax.random.key(0), None, jax.tree.map(lambda x: x[:1], features))
  _, expected = distiller.apply(variables, None, features, train=True, mutable=['batch_stats'])
  expected = expected['batch_stats']['bottleneck']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), statistics['bottleneck'], expected
  )


def test_loss_is_the_weighted_sum_of_its_terms(images, exemplars):
  _, _, terms = one_step(1, images, exemplars, lambda_nm=0.3, lambda_orth=0.7)
  assert terms['kd'] == pytest.approx(sum(terms[f'kd_{k}'] for k in (1, 2, 3)))
  total = terms['kd'] + 0.3 * terms['nm'] + 0.7 * terms['orth']
  assert terms['loss'] == pytest.approx(total)
  assert min(terms['kd'], terms['nm'], terms['orth']) > 0


@pytest.mark.parametrize(
  ('kind', 'memories', 'others'),
  [
    (reverse, (1, 2, 3), ('bottleneck', 'student_stage1')),
    (forward, (1, 2), ('stem', 'encoder_stage3')),
  ],
)
def test_gradients_flow_where_they_belong(images, exemplars, kind, memories, others):
  """L_KD trains keys and values; L_NM values only; L_orth both."""
  without, _, _ = one_step(1, images, exemplars, lambda_nm=0, lambda_orth=0, kind=kind)
  with_nm, _, _ = one_step(1, images, exemplars, lambda_nm=1, lambda_orth=0, kind=kind)
  with_orth, _, _ = one_step(1, images, exemplars, lambda_nm=0, lambda_orth=1, kind=kind)
  for m in memories:
    name = f'memory_m{m}'
    kd, nm, orth = without[name], with_nm[name], with_orth[name]
    assert np.abs(kd['keys']).max() > 0
    assert np.abs(kd['values']).max() > 0
    np.testing.assert_allclose(nm['keys'], kd['keys'], atol=1e-6)
    assert np.abs(nm['values'] - kd['values']).max() > 1e-5
    assert np.abs(orth['keys'] - kd['keys']).max() > 1e-5
    assert np.abs(orth['values'] - kd['values']).max() > 1e-5
  # L_NM reaches nothing else: the exemplars' features are the frozen teacher's.
  for name in others:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), with_nm[name], without[name]
    )


@pytest.mark.parametrize('kind', [reverse, forward])
def test_without_memories_it_is_the_baseline(images, kind):
  grads, _, terms = one_step(1, images, None, memories=(), kind=kind)
  assert terms['loss'] == terms['kd']
  assert terms['nm'] == terms['orth'] == 0
  assert not [name for name in grads if name.startswith('memory')]


def test_targets_of_the_memories():
  features = tuple(np.full((1, 1, 1, 1), float(k)) for k in (1, 2, 3, 4))
  embedding = np.full((1, 1, 1, 1), 9.0)

  def values(features, stages):
    targets = memory_targets(features, embedding, stages)
    return {m: float(t.squeeze()) for m, t in targets.items()}

  reverse_stages = {slot.memory: slot.target for slot in ReverseDistiller.SLOTS}
  assert values(features, reverse_stages) == {1: 2.0, 2: 3.0, 3: 4.0}
  assert values(features[:3], reverse_stages) == {1: 2.0, 2: 3.0, 3: 9.0}
  forward_stages = {slot.memory: slot.target for slot in ForwardDistiller.SLOTS}
  assert values(features, forward_stages) == {1: 1.0, 2: 2.0}


def test_the_embedding_as_a_target_gets_no_gradient():
  def through_target(embedding):
    return memory_targets((), embedding, {3: 4})[3].sum()

  assert jax.grad(through_target)(jnp.ones((1, 1, 1, 2))).max() == 0


@pytest.mark.parametrize('kd', ['global_cosine', 'local_cosine'])
def test_training_lowers_the_loss(tiny_config, images, kd):
  tiny_config.loss.kd = kd
  system = System(tiny_config, Devices(jax.devices()[:1]))
  state = system.devices.replicate(system.init_state('bolt', 0, images))
  data = system.training_data(images)
  losses, statistics = [], []
  for step in range(8):  # eight epochs of one batch
    state, terms = system.train_step(
      state,
      system.teacher_params,
      data.draw(np.arange(len(images))),
      data.draw(system.exemplar_indices('bolt', 0, len(images), step)),
    )
    losses.append(float(terms['loss'][0]))
    statistics.append(system.devices.unreplicate(state.batch_stats))
  assert losses[-1] < 0.7 * losses[0]
  # BatchNorm stays in training mode after the first epoch.
  for before, after in itertools.pairwise(statistics):
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(changes)) > 0
