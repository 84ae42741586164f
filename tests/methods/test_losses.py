"""The losses against loops (method, sections 4 and 5)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from memkd_jax.config import build
from memkd_jax.methods import distillation_config, losses
from memkd_jax.models.distiller import LAYOUTS
from memkd_jax.models.disturbances import NOISES
from memkd_jax.training.schedule import SCHEDULES


def cosine(a, b):
  return float(a @ b) / math.sqrt(float(a @ a)) / math.sqrt(float(b @ b))


@pytest.fixture
def maps(rng):
  """Teacher and student features of stages 1 and 3."""
  shapes = {1: (3, 4, 4, 5), 3: (3, 2, 2, 7)}
  teacher, student = ({k: rng.normal(size=s) for k, s in shapes.items()} for _ in range(2))
  return teacher, student


def test_global_distillation_loss(maps):
  teacher, student = maps
  terms = losses.distillation_loss(teacher, student, 'global_cosine')
  assert terms.keys() == {1, 3}
  for k, term in terms.items():
    distances = [
      1 - cosine(t.ravel(), s.ravel()) for t, s in zip(teacher[k], student[k], strict=True)
    ]
    np.testing.assert_allclose(term, sum(distances) / len(distances), atol=1e-6)


def test_local_distillation_loss(maps):
  teacher, student = maps
  for k, term in losses.distillation_loss(teacher, student, 'local_cosine').items():
    distances = [
      1 - cosine(teacher[k][p], student[k][p]) for p in np.ndindex(teacher[k].shape[:3])
    ]
    np.testing.assert_allclose(term, sum(distances) / len(distances), atol=1e-6)


def test_only_distilled_stages_count(maps):
  teacher, student = maps
  assert losses.distillation_loss(teacher, {3: student[3]}).keys() == {3}


def test_normality_loss(maps):
  targets, recalled = maps
  per_memory = []
  for m in targets:
    distances = [
      1 - cosine(targets[m][p], recalled[m][p]) for p in np.ndindex(targets[m].shape[:3])
    ]
    per_memory.append(sum(distances) / len(distances))
  expected = sum(per_memory) / len(per_memory)
  np.testing.assert_allclose(losses.normality_loss(targets, recalled), expected, atol=1e-6)


def test_normality_loss_is_half_the_squared_distance_of_unit_vectors(maps):
  targets, recalled = maps
  f, r = targets[1], recalled[1]
  f, r = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (f, r))
  expected = np.mean(np.sum((f - r) ** 2, axis=-1)) / 2
  loss = losses.normality_loss({1: targets[1]}, {1: recalled[1]})
  np.testing.assert_allclose(loss, expected, atol=1e-6)


def test_orthogonality_loss(rng):
  memories = {
    m: {'keys': rng.normal(size=(4, c)), 'values': rng.normal(size=(4, c))}
    for m, c in (('m1', 3), ('m3', 6))
  }
  per_memory = []
  for memory in memories.values():
    total = 0.0
    for x in (memory['keys'], memory['values']):
      pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
      total += sum(cosine(x[i], x[j]) ** 2 for i, j in pairs) / len(pairs)
    per_memory.append(total)
  expected = sum(per_memory) / len(per_memory)
  np.testing.assert_allclose(losses.orthogonality_loss(memories), expected, atol=1e-6)


def test_orthogonality_loss_at_its_bounds():
  same, orthogonal = np.ones((3, 4)), np.eye(3, 4)
  assert losses.orthogonality_loss({'m': {'keys': same, 'values': same}}) == pytest.approx(2)
  assert losses.orthogonality_loss({'m': {'keys': orthogonal, 'values': orthogonal}}) == 0
  single = np.ones((1, 4))
  assert losses.orthogonality_loss({'m': {'keys': single, 'values': single}}) == 0


def test_orthogonality_of_keys_and_values(rng):
  memories = {
    m: {'keys': rng.normal(size=(4, c)), 'values': rng.normal(size=(4, c))}
    for m, c in (('m1', 3), ('m3', 6))
  }
  per_memory = []
  for memory in memories.values():
    squared = [cosine(k, v) ** 2 for k in memory['keys'] for v in memory['values']]
    per_memory.append(sum(squared) / len(squared))
  expected = sum(per_memory) / len(per_memory)
  found = losses.orthogonality_loss(memories, 'cross')
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_orthogonality_across_at_its_bounds():
  same, apart = np.ones((3, 4)), np.eye(3, 6, 3)
  assert losses.orthogonality_loss(
    {'m': {'keys': same, 'values': 2 * same}}, 'cross'
  ) == pytest.approx(1)
  assert losses.orthogonality_loss({'m': {'keys': np.eye(3, 6), 'values': apart}}, 'cross') == 0


def test_without_memories_their_losses_are_zero():
  assert losses.normality_loss({}, {}) == 0
  for pairs in losses.ORTHOGONAL_PAIRS:
    assert losses.orthogonality_loss({}, pairs) == 0


@pytest.mark.parametrize('number', [1, 3, 10])
def test_the_hardest_positions(maps, number):
  """Stage 3 has 4 positions, fewer than the most that are asked for."""
  teacher, student = maps
  for k, term in losses.hardest_loss(teacher, student, number).items():
    means = []
    for t, s in zip(teacher[k], student[k], strict=True):
      distances = sorted(1 - cosine(t[p], s[p]) for p in np.ndindex(t.shape[:2]))
      hardest = distances[-number:]
      means.append(sum(hardest) / len(hardest))
    np.testing.assert_allclose(term, sum(means) / len(means), atol=1e-6)


def kd_gradients(teacher, student, **mining):
  def loss(student):
    mined = losses.mine(teacher, student, **mining) if mining else student
    return sum(losses.distillation_loss(teacher, mined).values())

  return loss(student), jax.grad(loss)(student)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9, 1.0])
def test_hard_mining_scales_the_gradient_of_easy_positions(maps, share):
  teacher, student = (
    {k: jnp.asarray(x, jnp.float32) for k, x in features.items()} for features in maps
  )
  loss, plain = kd_gradients(teacher, student)
  mined_loss, mined = kd_gradients(teacher, student, share=share, factor=0.1)
  assert mined_loss == loss  # to the bit: the features stay as they are
  for k in student:
    positions = list(np.ndindex(student[k].shape[:3]))
    distance = {p: 1 - cosine(np.asarray(teacher[k][p]), student[k][p]) for p in positions}
    ascending = sorted(positions, key=distance.get)
    easy = ascending[: min(round(share * len(positions)), len(positions) - 1)]
    assert len(easy) > 0 or share == 0
    for p in positions:
      factor = 0.1 if p in easy else 1.0
      np.testing.assert_allclose(mined[k][p], factor * plain[k][p], rtol=1e-5, atol=1e-9)


def test_equally_easy_positions_are_not_mined(maps):
  """Where all are rebuilt exactly, there is no position that is easier than another."""
  teacher = {k: jnp.asarray(x) for k, x in maps[0].items()}
  student = {k: jnp.ones_like(x) for k, x in teacher.items()}
  same = {k: 2 * x for k, x in student.items()}

  def sums(student):
    mined = losses.mine(same, student, 0.9, 0.1)
    return sum(jnp.sum(x) for x in mined.values())

  for gradient in jax.grad(sums)(student).values():
    np.testing.assert_array_equal(gradient, 1)


def test_hard_mining_compares_the_whole_batch(rng):
  """An image that is rebuilt well is easy as a whole, whichever device has it."""
  teacher, noise = (np.asarray(rng.normal(size=(4, 2, 2, 5)), np.float32) for _ in range(2))
  student = teacher + noise * np.array([0.01, 3, 0.1, 2], np.float32)[:, None, None, None]

  def gradient(teacher, student, axis_name):
    def loss(student):
      return jnp.sum(losses.mine({1: teacher}, {1: student}, 0.5, 0.0, axis_name)[1])

    return jax.grad(loss)(student)

  expected = np.array([0, 1, 0, 1])[:, None, None, None] * np.ones_like(student)
  np.testing.assert_array_equal(gradient(teacher, student, None), expected)
  shared_out = jax.vmap(lambda t, s: gradient(t, s, 'devices'), axis_name='devices')
  halves = (x.reshape(2, 2, *x.shape[1:]) for x in (teacher, student))
  np.testing.assert_array_equal(shared_out(*halves).reshape(student.shape), expected)


def test_losses_are_float32_for_bfloat16_features(maps):
  teacher, student = (
    {k: jnp.asarray(x, jnp.bfloat16) for k, x in tree.items()} for tree in maps
  )
  exact = losses.distillation_loss(
    *({k: np.asarray(x, np.float64) for k, x in tree.items()} for tree in (teacher, student))
  )
  for k, term in losses.distillation_loss(teacher, student).items():
    assert term.dtype == jnp.float32
    np.testing.assert_allclose(term, exact[k], atol=1e-6)


@pytest.fixture
def given(rng, maps):
  """What a pass with one memory, between stages 1 and 3, gives."""
  teacher, student = maps
  targets, recalled = ({1: rng.normal(size=(2, 3, 3, 4))} for _ in range(2))
  memories = {1: {name: rng.normal(size=(4, 4)) for name in ('keys', 'values')}}
  return losses.Pass(teacher, student, targets, recalled, memories)


def make_table(**values):
  defaults = build(distillation_config.FIELDS).loss.to_dict()
  return losses.loss_table(ConfigDict(defaults | values))


@pytest.mark.parametrize('kd', losses.KD_READINGS)
def test_the_loss_is_the_weighted_sum_of_the_table(given, kd):
  table = make_table(kd=kd, lambda_nm=0.3, lambda_orth=0.7)
  assert [(term.name, term.weight) for term in table] == [('kd', 1), ('nm', 0.3), ('orth', 0.7)]
  loss, logged = losses.total_loss(table, given)
  parts = losses.distillation_loss(given.teacher, given.student, kd)
  expected = {
    'kd_1': parts[1],
    'kd_3': parts[3],
    'kd': parts[1] + parts[3],
    'nm': losses.normality_loss(given.targets, given.recalled),
    'orth': losses.orthogonality_loss(given.memories),
  }
  expected['loss'] = expected['kd'] + 0.3 * expected['nm'] + 0.7 * expected['orth']
  assert logged.keys() == expected.keys()
  assert loss == logged['loss']
  for name, value in expected.items():
    np.testing.assert_allclose(logged[name], value, rtol=1e-6, err_msg=name)


def test_fields_choose_terms(given):
  table = make_table(orth='cross', hardest=2)
  _, logged = losses.total_loss(table, given)
  np.testing.assert_allclose(
    logged['orth'], losses.orthogonality_loss(given.memories, 'cross'), rtol=1e-6
  )
  hardest = losses.hardest_loss(given.teacher, given.student, 2)
  for k, value in hardest.items():
    np.testing.assert_allclose(logged[f'hardest_{k}'], value, rtol=1e-6)
  plain, _ = losses.total_loss(make_table(orth='cross'), given)
  np.testing.assert_allclose(logged['loss'], plain + hardest[1] + hardest[3], rtol=1e-6)


def test_both_teachers_count(given, rng):
  """What is rebuilt for an adapted teacher is compared as the rest is."""
  adapted, rebuilt = (
    {k: rng.normal(size=x.shape) for k, x in given.teacher.items()} for _ in range(2)
  )
  both = given._replace(adapted=adapted, rebuilt=rebuilt)
  table = make_table(hardest=2)
  (_, one), (_, two) = (losses.total_loss(table, p) for p in (given, both))
  for name, further in (
    ('kd', losses.distillation_loss(adapted, rebuilt)),
    ('hardest', losses.hardest_loss(adapted, rebuilt, 2)),
  ):
    for k, value in further.items():
      np.testing.assert_allclose(two[f'{name}_{k}'], one[f'{name}_{k}'] + value, rtol=1e-6)


def test_the_table_mines(given):
  """The loss stays as it is; its gradient is that of the features that `mine` gives."""
  student = {k: jnp.asarray(x, jnp.float32) for k, x in given.student.items()}

  def gradient(table, **of_pass):
    def loss(student):
      return losses.total_loss(table, given._replace(student=student, **of_pass))[0]

    return jax.value_and_grad(loss)(student)

  plain, of_plain = gradient(make_table())
  mined, of_mined = gradient(make_table(hard_mining=True, easy_factor=0.0), easy=0.5)
  assert mined == plain
  for k, expected in of_plain.items():
    mine = losses.mine(given.teacher, student, 0.5, 0.0)
    _, backward = jax.vjp(lambda s, k=k: losses.mine(given.teacher, s, 0.5, 0.0)[k], student)
    np.testing.assert_allclose(
      of_mined[k], backward(expected.astype(mine[k].dtype))[0][k], rtol=1e-5
    )
    assert np.abs(of_mined[k] - expected).max() > 0


def test_choices_are_those_of_the_fields():
  choices = {field.name: field.choices for field in distillation_config.FIELDS}
  assert choices['loss.orth'] == losses.ORTHOGONAL_PAIRS
  assert choices['model.memory_layout'] == LAYOUTS
  assert choices['train.feature_noise'] == NOISES
  assert choices['train.schedule'] == SCHEDULES


def test_a_further_term_is_a_line_of_the_table(given):
  table = (
    losses.Term('a', 2.0, lambda p: jnp.mean(p.teacher[1])),
    losses.Term('b', 3.0, lambda p: {k: jnp.sum(f) for k, f in p.student.items()}),
  )
  loss, logged = losses.total_loss(table, given)
  sums = {k: np.sum(f) for k, f in given.student.items()}
  np.testing.assert_allclose(
    loss, 2 * np.mean(given.teacher[1]) + 3 * (sums[1] + sums[3]), rtol=1e-5
  )
  assert list(logged) == ['loss', 'a', 'b', 'b_1', 'b_3']
  assert losses.log_order(table, sorted(logged)) == ['loss', 'a', 'b', 'b_1', 'b_3']
  causes = ['b_3', 'b_1', 'a', 'b', 'loss']
  assert losses.causal_order(table, sorted(logged), (3, 2, 1)) == causes


TABLE = make_table()


def test_a_log_begins_with_the_loss_and_its_terms():
  expected = ['loss', 'kd', 'nm', 'orth', 'grad_norm', 'kd_1', 'kd_2', 'm1_entropy']
  assert losses.log_order(TABLE, sorted(expected)) == expected
  assert losses.log_order(TABLE, []) == []


@pytest.mark.parametrize('running_order', [(3, 2, 1), (1, 2, 3)])
def test_causes_come_before_consequences(running_order):
  first, second, third = (f'kd_{k}' for k in running_order)
  expected = [
    f'm{running_order[0]}_keys_cosine',
    f'm{running_order[1]}_values_cosine',
    f'm{running_order[0]}_entropy',
    f'm{running_order[2]}_entropy',
    first,
    second,
    third,
    'kd',
    'nm',
    'orth',
    'loss',
    'grad_norm',
    'another',
  ]
  assert losses.causal_order(TABLE, sorted(expected), running_order) == expected
  assert losses.causal_order(TABLE, [], running_order) == []
