"""Nearest neighbours as matrix products, a part of the memory at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# What queries and rows may be rounded to before they are multiplied.
PRODUCTS = ('float32', 'bfloat16')
# Rows of the memory that are compared at a time: distances take 4 bytes for each pair.
_CHUNK = 2048


def squared_distances(queries: jax.Array, memory: jax.Array) -> jax.Array:
  """|q - m|^2 = |q|^2 - 2 q m + |m|^2 of each pair.

  Args:
    queries: vectors q, floating [N, C].
    memory: vectors m, floating [M, C].

  Returns:
    [N, M], not negative.
  """
  products = jnp.matmul(queries, memory.T, precision='highest')
  squared = _norms(queries)[:, None] - 2 * products + _norms(memory)
  return jnp.maximum(squared, 0.0)  # not 0, of which jax2onnx makes a double


def nearest_distance(
  queries: jax.Array, memory: jax.Array, products: str = 'float32'
) -> jax.Array:
  """The Euclidean distance of each query to the nearest row of a memory.

  Args:
    queries: vectors that are compared, floating [N, C].
    memory: rows of the memory, floating [M, C].
    products: dtype of the products, one of `PRODUCTS`. With 'bfloat16' all rows less the
      memory's mean are rounded to it first; sums are float32 in any case.

  Returns:
    [N], float32.
  """
  # Distances stay the same, and their squares come out of smaller numbers.
  centre = jnp.mean(memory, axis=0)
  queries, memory = queries - centre, memory - centre
  if products == 'bfloat16':  # said so that XLA does not leave it out before the norms
    queries, memory = (jax.lax.reduce_precision(x, 8, 7) for x in (queries, memory))
  # Not as many as there are queries, because ONNX is written for any number of them.
  nearest: jax.Array | float = jnp.inf
  for begin in range(0, memory.shape[0], _CHUNK):
    part = memory[begin : begin + _CHUNK]
    # Queries last: XLA finds the minimum over the first axis faster on CPUs.
    inner = jnp.matmul(
      part.astype(products),
      queries.T.astype(products),
      precision='highest',
      preferred_element_type=jnp.float32,
    )
    nearest = jnp.minimum(nearest, jnp.min(_norms(part)[:, None] - 2 * inner, axis=0))
  return jnp.sqrt(jnp.maximum(nearest + _norms(queries), 0.0))


def k_nearest(
  queries: jax.Array, memory: jax.Array, number: int
) -> tuple[jax.Array, jax.Array]:
  """The nearest rows of a memory.

  Args:
    queries: vectors that are compared, floating [N, C].
    memory: rows of the memory, floating [M, C], M at least `number`.
    number: k, how many rows are found for each query.

  Returns:
    Euclidean distances [N, k] in ascending order, and int32 indices of the rows, [N, k].
  """
  # Distances stay the same, and their squares come out of smaller numbers.
  centre = jnp.mean(memory, axis=0)
  queries, memory = queries - centre, memory - centre
  parts = []
  for begin in range(0, memory.shape[0], _CHUNK):
    part = memory[begin : begin + _CHUNK]
    squared = squared_distances(queries, part)
    lowest, index = jax.lax.top_k(-squared, min(number, part.shape[0]))
    parts.append((-lowest, index + begin))
  squared, indices = functools.reduce(functools.partial(_merge, number), parts)
  return jnp.sqrt(squared), indices.astype(jnp.int32)


def _merge(
  number: int, one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """The `number` smallest of two lists of (squared distances, indices), [N, k] each."""
  squared, indices = (jnp.concatenate(pair, axis=-1) for pair in zip(one, other, strict=True))
  lowest, order = jax.lax.top_k(-squared, min(number, squared.shape[-1]))
  # As a sum, because ONNX has no gathering for each query that all runtimes know.
  here = order[..., None] == np.arange(indices.shape[-1])
  return -lowest, jnp.sum(jnp.where(here, indices[:, None], 0), axis=-1)


def _norms(rows: jax.Array) -> jax.Array:
  """Squared, [N] of [N, C]."""
  return jnp.sum(rows**2, axis=-1)
