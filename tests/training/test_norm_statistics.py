"""The mean over batches against one that is computed of the activations themselves."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from memkd_jax.models.layers import BATCH_NORM_MOMENTUM, Conv
from memkd_jax.training.norm_statistics import mean_of_batches


class Layers(nn.Module):
  """Two layers, so that what the second one sees depends on the first one's BatchNorm."""

  @nn.compact
  def __call__(self, x):
    for name in ('a', 'b'):
      x = nn.relu(Conv(6, name=name)(x, train=True))
    return x


def activations(params, batch):
  """What comes into each BatchNorm, by plain numpy between the convolutions."""
  found = {}
  for name in ('a', 'b'):
    kernel = params[name]['conv']['kernel']
    batch = jax.lax.conv_general_dilated(
      batch, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    found[name] = np.asarray(batch, np.float64)
    mean, variance = found[name].mean((0, 1, 2)), found[name].var((0, 1, 2))
    batch = np.maximum((found[name] - mean) / np.sqrt(variance + 1e-5), 0)
    batch = jnp.asarray(batch, jnp.float32)
  return found


def test_the_mean_is_that_of_each_batchs_own_statistics(rng):
  batches = rng.normal(1, 3, (3, 4, 8, 8, 5)).astype(np.float32)
  model = Layers()
  variables = jax.device_get(model.init(jax.random.key(0), batches[0]))
  running = {  # far from the truth
    name: {'norm': {'mean': np.full(6, 7, np.float32), 'var': np.full(6, 50, np.float32)}}
    for name in ('a', 'b')
  }
  given = {'params': variables['params'], 'batch_stats': running}
  found = mean_of_batches(
    running,
    (model.apply(given, batch, mutable=['batch_stats'])[1]['batch_stats'] for batch in batches),
  )
  seen = [activations(variables['params'], batch) for batch in batches]
  for name in ('a', 'b'):
    of_batches = [(one[name].mean((0, 1, 2)), one[name].var((0, 1, 2))) for one in seen]
    mean, variance = np.mean(of_batches, axis=0)
    np.testing.assert_allclose(found[name]['norm']['mean'], mean, atol=2e-5)
    np.testing.assert_allclose(found[name]['norm']['var'], variance, rtol=1e-4)
    assert found[name]['norm']['var'].dtype == np.float32


def test_what_no_pass_changes_stays_bit_by_bit(rng):
  constant = rng.normal(size=1000).astype(np.float32)
  running = {'norm': np.ones(1, np.float32), 'target': constant}
  after = {'norm': np.full(1, BATCH_NORM_MOMENTUM, np.float32), 'target': constant}
  found = mean_of_batches(running, [after] * 7)
  assert found['target'].tobytes() == constant.tobytes()
  np.testing.assert_allclose(found['norm'], 0, atol=1e-6)  # every batch's own was 0
