"""The convolution of all layers, in the form that XLA computes fastest.

A 1x1 convolution is a matrix product everywhere. On CPUs, 3x3 convolutions are Winograd's
where that saves operations; of the rest the kernel's gradient is nine matrix products, one
for each tap, because XLA's convolution for it (whose window is the whole map) reaches a
small part of the machine's speed.
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
    inputs: [B, H, W, C].
    kernel: [h, w, C, K].
    strides: of both directions, equal.
    padding: (k // 2, k // 2) of both directions for a kernel of side k.
    options: others of `conv_general_dilated`, at their defaults.

  Returns:
    [B, H', W', K].
  """
  side, stride = kernel.shape[0], strides[0]
  if side == 1:
    return inputs[:, ::stride, ::stride] @ kernel[0, 0]
  if side != 3 or jnp.finfo(inputs.dtype).bits < 32:
    return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
  if stride == 1 and winograd.saves(inputs.shape, kernel.shape):
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
  of_kernel = lax.platform_dependent(
    inputs,
    cotangent,
    cpu=functools.partial(_taps, stride),
    default=lambda x, y: _transpose(lambda k: _direct(stride, x, k), kernel)(y),
  )
  return of_inputs(cotangent), of_kernel


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
