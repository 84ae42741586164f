"""Max pooling, against XLA's windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memkd_jax.ops.pooling import max_pool


def windows(x):
  return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize('shape', [(2, 8, 8, 3), (1, 7, 10, 2), (3, 1, 1, 1), (1, 2, 5, 4)])
def test_equals_windows(shape, rng):
  x = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
  np.testing.assert_array_equal(max_pool(x), windows(x))


def test_gradient_without_ties(rng):
  x = jnp.asarray(rng.permutation(2 * 9 * 12 * 3).reshape(2, 9, 12, 3), jnp.float32)
  cotangent = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
  expected = jax.vjp(windows, x)[1](cotangent)[0]
  np.testing.assert_allclose(jax.vjp(max_pool, x)[1](cotangent)[0], expected, atol=1e-6)
