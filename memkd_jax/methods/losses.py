"""The three losses as pure functions (method, sections 4 and 5).

All are computed in float32 at least. Each is a mean over what the calling
device holds, so averaging over devices with equal shares gives the loss of the
global batch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from memkd_jax.ops.cosine import cosine_similarity, normalize

KD_READINGS = ('flat', 'pixel')


def distillation_loss(
  teacher: Mapping[int, jax.Array], student: Mapping[int, jax.Array], reading: str = 'flat'
) -> dict[int, jax.Array]:
  """The terms of L_KD: the cosine distance of each distilled stage (section 5).

  Args:
    teacher: {k: F_T^k}, [B, H_k, W_k, C_k].
    student: {k: F_S^k}, same shapes; its keys say what is distilled.
    reading: 'flat' takes one cosine per image over the flattened map (RD's
      released code), 'pixel' one per position (RD's text).

  Returns:
    {k: scalar in [0, 2]}; L_KD is their sum.
  """
  axis = (1, 2, 3) if reading == 'flat' else -1
  return {k: jnp.mean(1.0 - cosine_similarity(teacher[k], student[k], axis)) for k in student}


def normality_loss(
  targets: Mapping[int, jax.Array], recalled: Mapping[int, jax.Array]
) -> jax.Array:
  """L_NM: 1 - cos(f, r), the mean over positions, then over memories (section 4).

  The mean over positions is taken per memory first, so that no memory counts
  for more because its feature map is larger.

  Args:
    targets: {m: f}, the exemplars' features [N, H, W, C].
    recalled: {m: r}, what memory m recalls for them by its values.

  Returns:
    A scalar in [0, 2]; 0 without memories.
  """
  terms = [jnp.mean(1.0 - cosine_similarity(targets[m], recalled[m])) for m in recalled]
  return jnp.mean(jnp.stack(terms)) if terms else jnp.zeros(())


def orthogonality_loss(memories: Mapping[Any, Mapping[str, jax.Array]]) -> jax.Array:
  """L_orth: the mean squared cosine of different items, keys plus values (section 5).

  Args:
    memories: {name: {'keys': [L, C], 'values': [L, C]}}.

  Returns:
    A scalar in [0, 2], the mean over memories; 0 without memories.
  """
  terms = [
    _mean_squared_cosine(m['keys']) + _mean_squared_cosine(m['values'])
    for m in memories.values()
  ]
  return jnp.mean(jnp.stack(terms)) if terms else jnp.zeros(())


def _mean_squared_cosine(items: jax.Array) -> jax.Array:
  """mean_{i != j} cos(x_i, x_j)^2 of the rows of [L, C]; 0 for a single row."""
  unit = normalize(items)
  cosines = jnp.einsum('ic,jc->ij', unit, unit, precision='highest')
  number = items.shape[0]
  off_diagonal = cosines**2 * (1.0 - jnp.eye(number, dtype=cosines.dtype))
  return jnp.sum(off_diagonal) / max(number * (number - 1), 1)
