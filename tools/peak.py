"""The most floating-point operations per second that a machine gives: of a large product.

On CPUs 4096 x 4096 matrices, on accelerators 8192 x 8192, whose entries are normal: products of
constants draw less power, and run faster on GPUs than any real ones.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REPETITIONS = 5


def of_jax(dtype: str) -> float:
  """FLOP per second by JAX; float32 may be TF32 on a GPU, as it is in the models."""
  side, calls = shape(jax.default_backend() != 'cpu')
  a = jnp.asarray(matrix(side), dtype)
  product = jax.jit(jnp.matmul)
  last = [a]

  def multiply() -> None:
    last[0] = product(a, a)

  return fastest(multiply, lambda: last[0].block_until_ready(), side, calls)


def shape(accelerator: bool) -> tuple[int, int]:
  """Side of the matrices, and products between two looks at the clock."""
  return (8192, 10) if accelerator else (4096, 1)


def matrix(side: int) -> np.ndarray:
  """float32 [side, side]."""
  return np.random.default_rng(0).standard_normal((side, side), np.float32)


def fastest(
  multiply: Callable[[], Any], wait: Callable[[], Any], side: int, calls: int
) -> float:
  """FLOP per second of the fastest repetition.

  Args:
    multiply: begins a product of two square matrices.
    wait: returns when all products are done.
    side: of the matrices.
    calls: products of a repetition.
  """
  multiply()
  wait()
  times = []
  for _ in range(REPETITIONS):
    begin = time.perf_counter()
    for _ in range(calls):
      multiply()
    wait()
    times.append(time.perf_counter() - begin)
  return calls * 2 * side**3 / min(times)
