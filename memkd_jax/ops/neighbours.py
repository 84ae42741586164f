"""Nearest neighbours as matrix products, a part of the memory at a time."""

import functools

import jax
import jax.numpy as jnp

# Rows of the memory that are compared at a time: distances take 4 bytes for each pair.
_CHUNK = 2048


def squared_distances(queries: jax.Array, memory: jax.Array) -> jax.Array:
  """|q - m|^2 = |q|^2 - 2 q m + |m|^2 of each pair.

  Args:
    queries: [N, C].
    memory: [M, C].

  Returns:
    [N, M], not negative.
  """
  products = jnp.matmul(queries, memory.T, precision='highest')
  squared = jnp.sum(queries**2, -1)[:, None] - 2 * products + jnp.sum(memory**2, -1)
  return jnp.maximum(squared, 0)


def nearest_distance(queries: jax.Array, memory: jax.Array) -> jax.Array:
  """The Euclidean distance of each query to the nearest row of a memory.

  Args:
    queries: [N, C].
    memory: [M, C].

  Returns:
    [N].
  """
  # Distances stay the same, and their squares come out of smaller numbers.
  centre = jnp.mean(memory, axis=0)
  queries, memory = queries - centre, memory - centre
  # Not as many as there are queries, because ONNX is written for any number of them.
  nearest: jax.Array | float = jnp.inf
  for begin in range(0, memory.shape[0], _CHUNK):
    part = memory[begin : begin + _CHUNK]
    products = jnp.matmul(queries, part.T, precision='highest')
    nearest = jnp.minimum(nearest, jnp.min(jnp.sum(part**2, -1) - 2 * products, axis=-1))
  return jnp.sqrt(jnp.maximum(nearest + jnp.sum(queries**2, -1), 0))


def k_nearest(
  queries: jax.Array, memory: jax.Array, number: int
) -> tuple[jax.Array, jax.Array]:
  """The nearest rows of a memory.

  Args:
    queries: [N, C].
    memory: [M, C], M at least `number`.
    number: k.

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
  return -lowest, jnp.take_along_axis(indices, order, axis=-1)
