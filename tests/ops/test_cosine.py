import jax
import jax.numpy as jnp
import numpy as np

from memkd_jax.ops.cosine import cosine_distances, cosine_similarity, normalize


def test_normalize_and_cosine_agree_with_numpy(rng):
  a, b = rng.normal(size=(2, 5, 7)).astype(np.float32)
  norm_a, norm_b = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
  np.testing.assert_allclose(normalize(a), a / norm_a[:, None], rtol=1e-6)
  np.testing.assert_allclose(
    cosine_similarity(a, b), (a * b).sum(-1) / norm_a / norm_b, atol=1e-6
  )


def test_cosine_over_several_axes_is_that_of_the_flattened_vectors(rng):
  a, b = rng.normal(size=(2, 3, 4, 4, 5)).astype(np.float32)
  flat = cosine_similarity(a.reshape(3, -1), b.reshape(3, -1))
  np.testing.assert_allclose(cosine_similarity(a, b, (1, 2, 3)), flat, atol=1e-6)


def test_distances_of_the_students_stages_in_its_order(rng):
  shapes = {1: (2, 8, 8, 3), 2: (2, 4, 4, 4), 3: (2, 2, 2, 5)}
  teacher = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  student = {k: rng.normal(size=shapes[k]).astype(np.float32) for k in (3, 1)}
  distances = cosine_distances(teacher, student)
  assert list(distances) == [3, 1]
  for k, distance in distances.items():
    t, s = teacher[k], student[k]
    norms = np.linalg.norm(t, axis=-1) * np.linalg.norm(s, axis=-1)
    np.testing.assert_allclose(distance, 1 - (t * s).sum(-1) / norms, atol=1e-6)


def test_zero_vectors_have_cosine_zero_and_finite_gradients():
  def f(x):
    return jnp.sum(cosine_similarity(x, jnp.ones(3)))

  value, gradient = jax.value_and_grad(f)(jnp.zeros((2, 3)))
  assert value == 0
  assert np.isfinite(gradient).all()


def test_low_precision_inputs_are_computed_in_float32(rng):
  x = jnp.asarray(rng.normal(size=(4, 300)), jnp.bfloat16)
  result = normalize(x)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(result, axis=-1), 1, rtol=1e-6)
