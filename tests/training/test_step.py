"""One step of gradient descent, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memkd_jax.runtime.devices import AXIS, Devices
from memkd_jax.training.step import TrainState, make_train_step

RATE = 0.1


def loss_function(params, batch_stats, inputs, targets):
  """Half the mean squared error of a linear map; the statistics count the calls."""
  errors = inputs @ params['w'] - targets
  loss = jnp.mean(errors**2) / 2
  terms = {'loss': loss, 'error': jnp.mean(errors)}
  return loss, (terms, {'calls': batch_stats['calls'] + 1})


def step_by_hand(w, inputs, targets):
  errors = inputs @ w - targets
  gradient = inputs.T @ errors / len(inputs)
  return w - RATE * gradient, {
    'loss': np.mean(errors**2) / 2,
    'error': np.mean(errors),
    'grad_norm': np.linalg.norm(gradient),
  }


@pytest.fixture
def data(rng):
  return rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=8).astype(np.float32)


def take(devices, axis_name, data, w):
  optimizer = optax.sgd(RATE)
  params = {'w': w}
  state = TrainState(np.int32(4), params, {'calls': np.int32(0)}, optimizer.init(params))
  step = devices.map(make_train_step(loss_function, optimizer, axis_name))
  return step(devices.replicate(state), *map(devices.shard, data))


@pytest.mark.parametrize('number', [1, 2, 4])
def test_devices_take_the_step_of_the_global_batch_together(data, number):
  w = np.array([1.0, -2.0, 0.5], np.float32)
  devices = Devices(jax.devices()[:number])
  state, terms = devices.unreplicate(take(devices, AXIS, data, w))
  expected, expected_terms = step_by_hand(w, *data)
  np.testing.assert_allclose(state.params['w'], expected, rtol=1e-5)
  assert terms.keys() == expected_terms.keys()
  for name, value in expected_terms.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
  assert (int(state.step), int(state.batch_stats['calls'])) == (5, 1)


def test_a_rate_multiplies_the_step(data):
  w = np.array([1.0, -2.0, 0.5], np.float32)
  optimizer = optax.sgd(RATE)
  state = TrainState(np.int32(0), {'w': w}, {'calls': np.int32(0)}, optimizer.init({'w': w}))
  step = jax.jit(make_train_step(loss_function, optimizer, None))
  whole, _ = step_by_hand(w, *data)
  found, _ = step(state, *data, rate=np.float32(0.25))
  np.testing.assert_allclose(found.params['w'] - w, 0.25 * (whole - w), rtol=1e-4)


def test_without_an_axis_each_device_trains_a_model_of_its_own(data):
  w = np.zeros(3, np.float32)
  devices = Devices(jax.devices()[:2])
  state, terms = take(devices, None, data, w)
  for row, half in enumerate((slice(0, 4), slice(4, 8))):
    expected, expected_terms = step_by_hand(w, *(array[half] for array in data))
    np.testing.assert_allclose(state.params['w'][row], expected, rtol=1e-5)
    np.testing.assert_allclose(terms['grad_norm'][row], expected_terms['grad_norm'], rtol=1e-5)
  assert not np.array_equal(*np.asarray(state.params['w']))


def test_the_optimizer_sees_the_parameters(data, one_device):
  """As weight decay does; here without a gradient."""
  optimizer = optax.add_decayed_weights(-0.5)
  params = {'w': np.ones(3, np.float32)}
  state = TrainState(np.int32(0), params, {'calls': np.int32(0)}, optimizer.init(params))

  def constant(params, batch_stats):
    return 0.0 * params['w'].sum(), ({'loss': jnp.zeros(())}, batch_stats)

  step = one_device.map(make_train_step(constant, optimizer, None))
  state, terms = one_device.unreplicate(step(one_device.replicate(state)))
  np.testing.assert_array_equal(state.params['w'], np.full(3, 0.5))
  assert terms['grad_norm'] == 0
