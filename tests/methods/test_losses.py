"""The losses against loops (method, sections 4 and 5)."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.methods import losses


def cosine(a, b):
  return float(a @ b) / math.sqrt(float(a @ a)) / math.sqrt(float(b @ b))


@pytest.fixture
def maps(rng):
  """Teacher and student features of stages 1 and 3."""
  shapes = {1: (3, 4, 4, 5), 3: (3, 2, 2, 7)}
  teacher, student = ({k: rng.normal(size=s) for k, s in shapes.items()} for _ in range(2))
  return teacher, student


def test_flat_distillation_loss(maps):
  teacher, student = maps
  terms = losses.distillation_loss(teacher, student, 'global_cosine')
  assert terms.keys() == {1, 3}
  for k, term in terms.items():
    distances = [
      1 - cosine(t.ravel(), s.ravel()) for t, s in zip(teacher[k], student[k], strict=True)
    ]
    np.testing.assert_allclose(term, sum(distances) / len(distances), atol=1e-6)


def test_pixel_distillation_loss(maps):
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


def test_without_memories_their_losses_are_zero():
  assert losses.normality_loss({}, {}) == 0
  assert losses.orthogonality_loss({}) == 0


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
