"""Greedy k-centre: a few rows of a large set of which none is far from all of them.

Picking row after row reads all rows for each pick, which memory bounds. Here a pass over them
serves many picks: the rows that are farthest now compete among themselves, as long as the
farthest of them is provably the farthest of all.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memkd_jax.ops.neighbours import squared_distances

# Rows that compete in a pass. Between passes a signal is answered and progress shown.
_CANDIDATES = 1024
# Picks whose distances to all rows are computed at a time: 4 bytes for each pair.
_TOGETHER = 64


class _State(NamedTuple):
  """How far a pass has come among its candidates.

  Attributes:
    nearest: float32 [T], squared distance of each to the nearest pick; -1 where it is one.
    picked: int32 [T], the pass's picks, indices of rows; those to come are any of them.
    number: number of the rows that are picked.
  """

  nearest: jax.Array
  picked: jax.Array
  number: jax.Array


def k_centres(
  rows: np.ndarray | jax.Array,
  number: int,
  first: int,
  tell: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
  """Picks, again and again, the row that is farthest from all that are picked (Gonzalez 1985).

  Its radius is at most twice the smallest that any choice of so many rows can have. Of rows
  equally far the first is taken, and none is taken twice.

  Args:
    rows: the vectors to choose from, float32 [N, C]; distances are Euclidean.
    number: K, how many to pick; from 1 to N.
    first: index of the row to begin with.
    tell: called with the number of new picks after each pass; may raise.

  Returns:
    int64 [K], indices in the order of the picks.
  """
  rows = jnp.asarray(rows, jnp.float32)
  # Distances stay the same, and their squares come out of smaller numbers.
  rows = rows - rows[first]
  nearest = jnp.sum(rows**2, axis=-1).at[first].set(-1)
  chosen = [np.array([first])]
  tell(1)
  left = number - 1
  while left:
    nearest, picked, new = _pass(rows, nearest, left)
    chosen.append(np.asarray(picked)[: int(new)])
    left -= int(new)
    tell(int(new))
  return np.concatenate(chosen).astype(np.int64)


@functools.partial(jax.jit, donate_argnames='nearest')
def _pass(
  rows: jax.Array, nearest: jax.Array, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The next picks, at least one, and what they change.

  Args:
    rows: the vectors to choose from, [N, C], N at least 2.
    nearest: [N], squared distance of each row to the nearest pick; -1 where it is one.
    most: number of picks that are wanted.

  Returns:
    `nearest` after them, the picks, int32 [T], and how many of these there are.
  """
  size = min(_CANDIDATES, rows.shape[0] - 1)
  distances, order = jax.lax.top_k(nearest, size + 1)
  # The farthest of the others; new picks bring none of these farther away than it is.
  rival_distance, rival = distances[-1], order[-1]
  candidates = jnp.sort(order[:-1])  # so that the first of equal ones is found first
  own_rows = rows[candidates]

  def is_certain(state: _State) -> jax.Array:
    best = jnp.argmax(state.nearest)
    tied = (state.nearest[best] == rival_distance) & (candidates[best] < rival)
    ahead = (state.nearest[best] > rival_distance) | tied
    # The first always is; that it is said keeps rows with NaN from going on for ever.
    return (state.number < most) & (ahead | (state.number == 0))

  def pick(state: _State) -> _State:
    best = jnp.argmax(state.nearest)
    squared = squared_distances(own_rows[best, None], own_rows)[0]
    left = jnp.minimum(state.nearest, squared).at[best].set(-1)
    picked = state.picked.at[state.number].set(candidates[best])
    return _State(left, picked, state.number + 1)

  begin = _State(nearest[candidates], jnp.full(size, order[0]), jnp.int32(0))
  _, picked, number = jax.lax.while_loop(is_certain, pick, begin)
  together = min(_TOGETHER, size)

  def update(i: int, nearest: jax.Array) -> jax.Array:
    some = jax.lax.dynamic_slice_in_dim(picked, i * together, together)
    squared = squared_distances(rows[some], rows)
    return jnp.minimum(nearest, jnp.min(squared, axis=0))

  nearest = jax.lax.fori_loop(0, -(-number // together), update, nearest)
  return nearest.at[picked].set(-1), picked, number
