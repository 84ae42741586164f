import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memkd_jax.models.layers import Conv, UpConv


def slow_conv(x, kernel, stride, pad):
  """[H, W, C] with explicit zero padding, one output at a time."""
  side = kernel.shape[0]
  x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
  height, width = ((n - side) // stride + 1 for n in x.shape[:2])
  out = np.empty((height, width, kernel.shape[-1]))
  for i in range(height):
    for j in range(width):
      patch = x[i * stride : i * stride + side, j * stride : j * stride + side]
      out[i, j] = np.einsum('hwc,hwco->o', patch, kernel)
  return out


@pytest.mark.parametrize(('side', 'stride'), [(7, 2), (3, 2), (3, 1), (1, 2), (1, 1)])
@pytest.mark.parametrize('shape', [(8, 8), (9, 7)])
def test_folded_conv_pads_explicitly(rng, side, stride, shape):
  x = rng.normal(size=(1, *shape, 2)).astype(np.float32)
  conv = Conv(3, side, stride, folded=True)
  params = conv.init(jax.random.key(0), x)
  params['params']['conv']['bias'] = jnp.arange(3.0)
  expected = slow_conv(x[0], params['params']['conv']['kernel'], stride, side // 2)
  np.testing.assert_allclose(conv.apply(params, x)[0], expected + np.arange(3), atol=1e-4)
  assert 'batch_stats' not in params


def test_conv_initialisation_is_kaiming_normal_fan_out():
  params = Conv(256, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))['params']
  assert 'bias' not in params['conv']
  np.testing.assert_allclose(params['conv']['kernel'].std(), np.sqrt(2 / (256 * 9)), rtol=0.02)


def test_batch_norm_has_the_methods_momentum_and_epsilon(rng):
  x = rng.normal(2.0, 3.0, size=(4, 5, 5, 2)).astype(np.float32)
  conv = Conv(3, 1)
  variables = conv.init(jax.random.key(0), x)
  y, updates = conv.apply(variables, x, train=True, mutable=['batch_stats'])
  raw = np.einsum('bhwc,co->bhwo', x, variables['params']['conv']['kernel'][0, 0])
  mean, var = raw.mean((0, 1, 2)), raw.var((0, 1, 2))
  np.testing.assert_allclose(y, (raw - mean) / np.sqrt(var + 1e-5), atol=1e-4)
  statistics = updates['batch_stats']['norm']
  np.testing.assert_allclose(statistics['mean'], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(statistics['var'], 0.9 + 0.1 * var, rtol=1e-4)


def test_up_conv_equals_a_transposed_convolution_and_its_gradient(rng):
  x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  up = UpConv(6)
  variables = up.init(jax.random.key(0), x)
  transposed = nn.ConvTranspose(6, (2, 2), (2, 2), padding='VALID', use_bias=False)

  def with_matmul(kernel, x):
    return up.apply({**variables, 'params': {**variables['params'], 'kernel': kernel}}, x)

  def with_transpose(kernel, x):
    # Ours is [in, kh, kw, out] as torch applies it, flax's is spatially flipped.
    flipped = kernel[:, ::-1, ::-1].transpose(1, 2, 0, 3)
    y = transposed.apply({'params': {'kernel': flipped}}, x)
    return y / jnp.sqrt(1 + 1e-5)  # the BatchNorm's initial statistics

  kernel = variables['params']['kernel']
  expected = with_transpose(kernel, x)
  assert expected.shape == (2, 6, 8, 6)
  np.testing.assert_allclose(with_matmul(kernel, x), expected, atol=5e-6)
  target = rng.normal(size=expected.shape).astype(np.float32)
  ours, theirs = (
    jax.grad(lambda k, x, f=f: jnp.sum(f(k, x) * target), (0, 1))(kernel, x)
    for f in (with_matmul, with_transpose)
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


def test_up_conv_initialisation_is_torchs_default():
  kernel = UpConv(16).init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)))['params']['kernel']
  bound = 1 / np.sqrt(4 * 16)  # Kaiming uniform, a = sqrt(5), fan-in 4 * out
  assert bound * 0.99 < np.abs(kernel).max() <= bound
  np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.03)
