"""The convolution of all layers, in the form that XLA computes fastest.

A 1x1 convolution is a matrix product everywhere. On CPUs, 3x3 convolutions are Winograd's in
float32 where that saves operations; of the rest the kernel's gradient is nine matrix products,
one for each tap, because XLA's convolution for it (whose window is the whole map) reaches a
small part of the machine's speed. In bfloat16 they are left to the library that
`runtime.onednn` asks XLA for, whose operations are too fast to be worth saving; it knows no
convolution with a window backwards, so that the inputs' gradient is written without one.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memkd_jax.ops import winograd


def convolution(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated` of NHWC and HWIO.

  Args:
    inputs: images or feature maps, floating [B, H, W, C].
    kernel: weights of the convolution, floating [h, w, C, K].
    strides: steps in both directions, which are equal.
    padding: (k // 2, k // 2) of both directions for a kernel of side k.
    options: other arguments of `conv_general_dilated`, at their defaults.

  Returns:
    [B, H', W', K].
  """
  side, stride = kernel.shape[0], strides[0]
  if side == 1:
    return inputs[:, ::stride, ::stride] @ kernel[0, 0]
  if side != 3:
    return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
  whole = jnp.finfo(inputs.dtype).bits >= 32
  if whole and stride == 1 and winograd.saves(inputs.shape, kernel.shape):
    return winograd.conv3x3(inputs, kernel)
  return _conv3x3(stride, inputs, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv3x3(stride: int, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution of padding 1, whose gradients alone are special."""
  return _direct(stride, inputs, kernel)


def _save_inputs(
  stride: int, inputs: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _direct(stride, inputs, kernel), (inputs, kernel)


def _gradients(
  stride: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  inputs, kernel = saved
  of_inputs = _transpose(lambda x: _direct(stride, x, kernel), inputs)

  def of_kernel(inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
    return _transpose(lambda k: _direct(stride, inputs, k), kernel)(cotangent)

  if jnp.finfo(inputs.dtype).bits < 32:
    back = functools.partial(_forwards, stride, inputs.shape, kernel)
    to_inputs = lax.platform_dependent(cotangent, cpu=back, default=of_inputs)
    return to_inputs, of_kernel(inputs, cotangent)
  taps = functools.partial(_taps, stride)
  to_kernel = lax.platform_dependent(inputs, cotangent, cpu=taps, default=of_kernel)
  return of_inputs(cotangent), to_kernel


_conv3x3.defvjp(_save_inputs, _gradients)


def _direct(stride: int, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    inputs,
    kernel,
    (stride, stride),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _transpose(linear: Any, like: jax.Array) -> Any:
  transposed = jax.linear_transpose(linear, jax.ShapeDtypeStruct(like.shape, like.dtype))
  return lambda cotangent: transposed(cotangent)[0]


def _forwards(
  stride: int, shape: Sequence[int], kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
  """The inputs' gradient, [B, H, W, C], as a convolution of stride 1 that looks forwards."""
  # XLA would make a window backwards of the turned kernel, and a dilation of the zeros.
  turned = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
  if stride > 1:
    ends = [
      (0, n - 1 - stride * (m - 1), stride - 1)
      for n, m in zip(shape[1:3], cotangent.shape[1:3], strict=True)
    ]
    zero = jnp.zeros((), cotangent.dtype)
    spread = lax.pad(cotangent, zero, [(0, 0, 0), *ends, (0, 0, 0)])
    cotangent = lax.optimization_barrier(spread)
  return _direct(1, cotangent, turned)


def _taps(stride: int, inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
  """The kernel's gradient, [3, 3, C, K]."""
  height, width, features = cotangent.shape[1:]
  padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = cotangent.reshape(-1, features)

  def tap(i: int, j: int) -> jax.Array:
    ends = i + stride * (height - 1) + 1, j + stride * (width - 1) + 1
    seen = padded[:, i : ends[0] : stride, j : ends[1] : stride]
    return seen.reshape(-1, inputs.shape[-1]).T @ rows

  return jnp.stack([jnp.stack([tap(i, j) for j in range(3)]) for i in range(3)])
