"""Unit vectors and cosines, the one similarity that the whole method speaks.

Everything is computed in float32 at least, whatever the dtype of the input
(method, section 5).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Vectors are divided by at least this norm, and no gradient flows through a
# smaller one: a ReLU makes exact zeros common, and they must stay zeros.
_MIN_NORM = 1e-8


def normalize(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """Scales vectors along `axis` to unit length; zero vectors stay zero.

  Args:
    x: floating array of any shape.
    axis: the axis or axes that make up one vector.

  Returns:
    Same shape, float32 (float64 for a float64 input).
  """
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.sum(x * x, axis=axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, _MIN_NORM**2))


def cosine_similarity(
  a: jax.Array, b: jax.Array, axis: int | tuple[int, ...] = -1
) -> jax.Array:
  """cos(a, b) along `axis`, in [-1, 1]; 0 where either vector is zero.

  Args:
    a: floating array of any shape.
    b: floating array that can be broadcast against `a`.
    axis: the axis or axes that make up one vector; they are reduced.

  Returns:
    The cosines, float32 (float64 for float64 inputs).
  """
  return jnp.sum(normalize(a, axis) * normalize(b, axis), axis=axis)


def cosine_distances(
  teacher: Mapping[int, jax.Array], student: Mapping[int, jax.Array]
) -> dict[int, jax.Array]:
  """1 - cos(F_T^k, F_S^k) at each position.

  Args:
    teacher: {k: F_T^k}, features of the teacher's stages, [B, H_k, W_k, C_k]; stages that the
      student lacks are ignored.
    student: {k: F_S^k}, features of the student's stages, of the same shapes.

  Returns:
    {k: [B, H_k, W_k]} in the student's order, float32 (float64 for float64 features).
  """
  return {k: 1.0 - cosine_similarity(teacher[k], student[k]) for k in student}
