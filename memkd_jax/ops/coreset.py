"""Greedy k-centre: a few rows of a large set of which none is far from all of them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Picks in one compiled call; between two calls a signal is answered and progress shown.
_BLOCK = 256


class _State(NamedTuple):
  """The rows picked so far.

  Attributes:
    picked: int32 [K], indices of rows; those to come are 0.
    nearest: float32 [N], squared distance of each row to the nearest that is picked.
    number: how many are picked.
  """

  picked: jax.Array
  nearest: jax.Array
  number: jax.Array


def k_centres(
  rows: np.ndarray | jax.Array,
  number: int,
  first: int,
  tell: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
  """Picks, again and again, the row that is farthest from all that are picked (Gonzalez 1985).

  Its radius is at most twice the smallest that any choice of so many rows can have. Of rows
  equally far the first is taken, so the choice is the same wherever it is computed in the
  same precision. Every pick reads all rows once: it is bound by memory.

  Args:
    rows: float32 [N, C]; distances are Euclidean.
    number: K, how many to pick; from 1 to N.
    first: index of the row to begin with.
    tell: is given the number of new picks after each block, and may raise.

  Returns:
    int64 [K], indices in the order of the picks.
  """
  rows = jnp.asarray(rows, jnp.float32)
  norms = jnp.sum(rows**2, axis=-1)
  state = _State(
    jnp.zeros(number, jnp.int32).at[0].set(first),
    _squared_distances(rows, norms, jnp.int32(first)),
    jnp.int32(1),
  )
  tell(1)
  for begin in range(1, number, _BLOCK):
    picks = min(_BLOCK, number - begin)
    state = _pick(rows, norms, state, picks)
    jax.block_until_ready(state.number)
    tell(picks)
  return np.asarray(state.picked, np.int64)


@functools.partial(jax.jit, donate_argnames='state')
def _pick(rows: jax.Array, norms: jax.Array, state: _State, picks: int) -> _State:
  def one(_: int, state: _State) -> _State:
    index = jnp.argmax(state.nearest).astype(jnp.int32)
    nearest = jnp.minimum(state.nearest, _squared_distances(rows, norms, index))
    return _State(state.picked.at[state.number].set(index), nearest, state.number + 1)

  return jax.lax.fori_loop(0, picks, one, state)


def _squared_distances(rows: jax.Array, norms: jax.Array, index: jax.Array) -> jax.Array:
  """|x|^2 - 2 x c + |c|^2 of every row x and one of them, c, whose own is 0 exactly."""
  centre = rows[index]
  squared = norms - 2 * jnp.matmul(rows, centre, precision='highest') + norms[index]
  return jnp.maximum(squared, 0).at[index].set(0)
