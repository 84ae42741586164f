"""3x3 convolutions with a quarter of the multiplications, for CPUs.

Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, CVPR 2016): tiles of 6x6 inputs are
transformed, multiplied with the transformed kernel as 36 matrix products over the channels,
and transformed back to 4x4 outputs. XLA's own convolutions on CPUs run near the machine's
peak already, so only fewer operations make them faster; the kernel's gradient gains most.
On other platforms these functions are XLA's convolution, whose libraries know this trick.

In float32 the result differs from a direct convolution by about 1e-5 of its largest value.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from memkd_jax.ops import portable

# Y = A' [(G k G') * (B' x B)] A for a tile; the points are 0, 1, -1, 2, -2 and infinity.
_INPUT = np.array(
  [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
  ]
)
_KERNEL = (
  np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
)
_OUTPUT = np.array(
  [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)

# Tiles times channels that are worked on at a time: what lies between the steps, 36 times as
# many numbers, must stay in the cache.
_CHUNK = 65536


def saves(inputs: Sequence[int], kernel: Sequence[int]) -> bool:
  """Whether a 3x3 convolution of stride 1 takes less time this way.

  Args:
    inputs: the shape [B, H, W, C]; where B is symbolic, as in an exported program, one
      image must suffice.
    kernel: the shape [3, 3, C, K].
  """
  batch, height, width, channels = inputs
  if is_symbolic_dim(batch):
    batch = 1
  features = kernel[3]
  # For few tiles, transforming the kernel costs more than is saved.
  enough = batch * height * width // 16 >= max(32, channels * features // 2048)
  fits = min(channels, features) >= 32 and height % 4 == width % 4 == 0
  return bool(enough and fits and not portable.wanted())


@jax.custom_vjp
def conv3x3(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution of stride 1 and padding 1.

  Args:
    inputs: images or feature maps, [B, H, W, C] of at least float32, H and W multiples of 4.
    kernel: weights of the convolution, [3, 3, C, K].

  Returns:
    [B, H, W, K].
  """
  return lax.platform_dependent(inputs, kernel, cpu=_forward, default=_direct)


def _save_inputs(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
  return conv3x3(inputs, kernel), (inputs, kernel)


def _gradients(saved: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
  inputs, kernel = saved
  backwards = kernel[::-1, ::-1].swapaxes(2, 3)
  return conv3x3(cotangent, backwards), lax.platform_dependent(
    inputs, cotangent, cpu=_kernel_gradient, default=_direct_kernel_gradient
  )


conv3x3.defvjp(_save_inputs, _gradients)


def _direct(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  layout = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    inputs, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout
  )


def _direct_kernel_gradient(inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
  shape = (3, 3, inputs.shape[-1], cotangent.shape[-1])
  linear = functools.partial(_direct, inputs)
  transposed = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, inputs.dtype))
  gradient: jax.Array = transposed(cotangent)[0]
  return gradient


def _forward(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  channels, features = kernel.shape[2:]
  both = jnp.asarray(np.kron(_KERNEL, _KERNEL), kernel.dtype)
  # Columns first, as `_along_both` orders what it gives.
  transformed = both @ kernel.swapaxes(0, 1).reshape(9, -1)
  transformed = transformed.reshape(36, channels, features)

  def convolve(inputs: jax.Array) -> jax.Array:
    batch, height, width, _ = inputs.shape
    products = _transform_inputs(inputs) @ transformed
    tiles = products.reshape(6, 6, batch, height // 4, width // 4, features)
    rows = _apart(jnp.stack(_combine(_OUTPUT, list(tiles)), axis=4))
    outputs = jnp.stack(_combine(_OUTPUT, list(rows)), axis=2)
    return outputs.reshape(batch, height, width, features)

  outputs = lax.map(convolve, _chunks(inputs))
  return outputs.reshape(*inputs.shape[:3], features)


def _kernel_gradient(inputs: jax.Array, cotangent: jax.Array) -> jax.Array:
  channels, features = inputs.shape[-1], cotangent.shape[-1]

  def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    inputs, cotangent = chunk
    transformed = _transform_inputs(inputs), _transform_cotangent(cotangent)
    return total + jnp.einsum('tpc,tpk->tck', *transformed), None

  zero = jnp.zeros((36, channels, features), inputs.dtype)
  total, _ = lax.scan(add, zero, (_chunks(inputs), _chunks(cotangent)))
  both = jnp.asarray(np.kron(_KERNEL, _KERNEL).T, inputs.dtype)
  return (both @ total.reshape(36, -1)).reshape(3, 3, channels, features).swapaxes(0, 1)


def _transform_inputs(inputs: jax.Array) -> jax.Array:
  """The 6x6 tiles at steps of 4: [B, H, W, C] -> [36, B * H/4 * W/4, C]."""
  padded = jnp.pad(inputs, ((0, 0), (1, 3), (1, 3), (0, 0)))
  return _along_both(_INPUT, padded, _overlapping)


def _transform_cotangent(cotangent: jax.Array) -> jax.Array:
  """The 4x4 tiles, back through the outputs' transform: [..., K] -> [36, tiles, K]."""
  return _along_both(_OUTPUT.T, cotangent, _disjoint)


def _along_both(
  matrix: np.ndarray, maps: jax.Array, cut: Callable[[jax.Array, int], list[jax.Array]]
) -> jax.Array:
  rows = _apart(jnp.stack(_combine(matrix, cut(maps, 1))))
  columns = _apart(jnp.stack(_combine(matrix, cut(rows, 3))))
  return columns.reshape(36, -1, maps.shape[-1])


def _overlapping(maps: jax.Array, axis: int) -> list[jax.Array]:
  """The six samples of each tile; the last two are the next tile's first."""
  samples = _disjoint(maps, axis)
  ends = [lax.slice_in_dim(x, 1, None, axis=axis) for x in samples[:2]]
  return [lax.slice_in_dim(x, 0, -1, axis=axis) for x in samples] + ends


def _disjoint(maps: jax.Array, axis: int) -> list[jax.Array]:
  """The four samples of each tile along an axis."""
  shape = (*maps.shape[:axis], -1, 4, *maps.shape[axis + 1 :])
  parts = jnp.split(maps.reshape(shape), 4, axis=axis + 1)
  return [jnp.squeeze(part, axis=axis + 1) for part in parts]


def _combine(matrix: np.ndarray, samples: list[jax.Array]) -> list[jax.Array]:
  """The sums of the samples weighted by each row, without the zeros."""
  return [
    functools.reduce(
      jnp.add, [x if w == 1 else float(w) * x for w, x in zip(row, samples, strict=True) if w]
    )
    for row in matrix
  ]


def _chunks(maps: jax.Array) -> jax.Array:
  """[B, H, W, C] -> [B / n, n, H, W, C], a few images in each part."""
  batch, height, width, channels = maps.shape
  if is_symbolic_dim(batch):  # of which 1 alone is a divisor for certain
    return maps.reshape(batch, 1, *maps.shape[1:])
  most = max(1, 16 * _CHUNK // (height * width * channels))
  number = next(n for n in range(min(most, batch), 0, -1) if batch % n == 0)
  return maps.reshape(batch // number, number, *maps.shape[1:])


def _apart(x: jax.Array) -> jax.Array:
  """Keeps XLA from fusing what follows into what comes before, which computes it repeatedly."""
  return lax.optimization_barrier(x)
