"""Every form of the convolution is XLA's, and so are its gradients."""

import jax
import numpy as np
import pytest
from jax import lax

from memkd_jax.ops import winograd
from memkd_jax.ops.convolution import convolution

# (inputs, kernel, stride, tolerance of the largest value in float32)
_CASES = {
  'stem': ((2, 16, 16, 3), (7, 7, 3, 8), 2, 1e-6),
  '1x1': ((2, 6, 6, 5), (1, 1, 5, 7), 1, 1e-6),
  '1x1 of stride 2': ((2, 7, 6, 5), (1, 1, 5, 7), 2, 1e-6),
  '3x3': ((2, 6, 5, 3), (3, 3, 3, 4), 1, 1e-6),
  '3x3 of stride 2': ((2, 8, 8, 3), (3, 3, 3, 4), 2, 1e-6),
  '3x3 of stride 2, odd sides': ((2, 7, 5, 3), (3, 3, 3, 4), 2, 1e-6),
  'Winograd': ((4, 12, 16, 32), (3, 3, 32, 36), 1, 3e-5),
}


def direct(stride: int, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  pad = kernel.shape[0] // 2
  layout = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    inputs, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=layout
  )


def dispatched(stride: int, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  pad = kernel.shape[0] // 2
  layout = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
  padding = ((pad, pad), (pad, pad))
  return convolution(inputs, kernel, (stride, stride), padding, dimension_numbers=layout)


@pytest.mark.parametrize('precise', [False, True], ids=['float32', 'float64'])
@pytest.mark.parametrize('case', _CASES)
def test_equals_the_direct_convolution_and_so_do_its_gradients(case, precise):
  shape, kernel_shape, stride, tolerance = _CASES[case]
  generator = np.random.default_rng(0)
  with jax.enable_x64(precise):
    dtype = np.float64 if precise else np.float32
    inputs = generator.standard_normal(shape).astype(dtype)
    kernel = generator.standard_normal(kernel_shape).astype(dtype)

    def all_three(function, cotangent):
      outputs, back = jax.vjp(lambda x, k: function(stride, x, k), inputs, kernel)
      return (outputs, *back(cotangent))

    cotangent = generator.standard_normal(direct(stride, inputs, kernel).shape).astype(dtype)
    actual = jax.jit(all_three, static_argnums=0)(dispatched, cotangent)
    expected = jax.jit(all_three, static_argnums=0)(direct, cotangent)
  for name, a, e in zip(('outputs', 'inputs', 'kernel'), actual, expected, strict=True):
    assert a.dtype == dtype
    limit = (1e-12 if precise else tolerance) * np.abs(e).max()
    np.testing.assert_allclose(a, e, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
  ('inputs', 'kernel', 'saves'),
  [
    ((16, 64, 64, 64), (3, 3, 64, 64), True),
    ((16, 16, 16, 256), (3, 3, 256, 256), True),
    ((16, 8, 8, 512), (3, 3, 512, 512), False),  # too few tiles for so large a kernel
    ((16, 64, 64, 16), (3, 3, 16, 16), False),
    ((16, 30, 32, 64), (3, 3, 64, 64), False),  # 30 is no multiple of 4
  ],
)
def test_winograd_is_chosen_where_it_saves_time(inputs, kernel, saves):
  assert winograd.saves(inputs, kernel) == saves


def test_bfloat16_is_not_winograds(monkeypatch):
  def refuse(*_):
    raise AssertionError('called')

  monkeypatch.setattr(winograd, 'conv3x3', refuse)
  inputs = np.ones((4, 16, 16, 32), np.float32)
  kernel = np.ones((3, 3, 32, 32), np.float32)
  half = dispatched(1, *(jax.numpy.asarray(x, 'bfloat16') for x in (inputs, kernel)))
  assert half.dtype == 'bfloat16'
  with pytest.raises(AssertionError, match='called'):
    dispatched(1, inputs, kernel)


@pytest.mark.parametrize('case', [name for name in _CASES if _CASES[name][1][0] == 3])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(case):
  shape, kernel_shape, stride, _ = _CASES[case]
  generator = np.random.default_rng(0)
  inputs, kernel = (
    jax.numpy.asarray(generator.standard_normal(s), 'bfloat16') for s in (shape, kernel_shape)
  )
  outputs, back = jax.vjp(lambda x, k: dispatched(stride, x, k), inputs, kernel)
  cotangent = jax.numpy.asarray(generator.standard_normal(outputs.shape), 'bfloat16')
  wide = [x.astype('float32') for x in (inputs, kernel)]
  expected, back_wide = jax.vjp(lambda x, k: direct(stride, x, k), *wide)
  actual = (outputs, *back(cotangent))
  exact = (expected, *back_wide(cotangent.astype('float32')))
  for name, a, e in zip(('outputs', 'inputs', 'kernel'), actual, exact, strict=True):
    assert a.dtype == 'bfloat16'
    # Half of the last of 8 bits, and what rounding within the sums adds to it.
    limit = 2**-7 * np.abs(e).max()
    np.testing.assert_allclose(a.astype('float32'), e, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize('batch', [1, 5, 6])
def test_chunks_of_any_batch_give_the_same(batch, monkeypatch):
  generator = np.random.default_rng(1)
  inputs = generator.standard_normal((batch, 8, 8, 4)).astype(np.float32)
  kernel = generator.standard_normal((3, 3, 4, 4)).astype(np.float32)
  whole = winograd.conv3x3(inputs, kernel)
  monkeypatch.setattr(winograd, '_CHUNK', 2 * 4 * 4)  # two images
  np.testing.assert_allclose(winograd.conv3x3(inputs, kernel), whole, rtol=0, atol=1e-4)
