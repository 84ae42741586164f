"""The memory's formulas against loops over positions and items."""

import math

import jax
import numpy as np
import pytest

from memkd_jax.models.memory import NRMemory


def slow_recall(query, addresses, values, temperature):
  """method, section 2.3, one position at a time."""
  recalled = np.empty_like(query)
  for position in np.ndindex(query.shape[:-1]):
    q = query[position]
    s = [float(q @ k) / (math.sqrt(float(q @ q)) * math.sqrt(float(k @ k))) for k in addresses]
    e = [math.exp(x / temperature) for x in s]
    recalled[position] = sum(x / sum(e) * v for x, v in zip(e, values, strict=True))
  return recalled


@pytest.mark.parametrize('temperature', [1.0, 0.05])
@pytest.mark.parametrize('by_values', [False, True])
def test_recall_agrees_with_the_formula(rng, temperature, by_values):
  memory = NRMemory(items=6, features=5, temperature=temperature)
  query = rng.normal(size=(2, 3, 3, 5))
  keys, values = rng.normal(size=(2, 6, 5))
  method = 'recall_by_values' if by_values else '__call__'
  recalled = memory.apply({'params': {'keys': keys, 'values': values}}, query, method=method)
  expected = slow_recall(query, values if by_values else keys, values, temperature)
  np.testing.assert_allclose(recalled, expected, atol=1e-5)


def test_keys_and_values_are_parameters_of_their_own():
  params = NRMemory(items=50, features=8).init(jax.random.key(0), np.ones((1, 2, 2, 8)))
  keys, values = params['params']['keys'], params['params']['values']
  assert keys.shape == values.shape == (50, 8)
  assert not np.array_equal(keys, values)
  assert 0.8 < np.std(keys) < 1.2  # standard normal (method, section 2.4)
