"""Folds BatchNorms and memory values into the student's convolutions, for inference."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from memkd_jax.models.layers import BATCH_NORM_EPSILON


def fold_batch_norm(
  params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> dict[str, Any]:
  """What a distiller takes whose `folded` is True.

  w' = w gamma / sqrt(var + eps) and b' = beta - mean gamma / sqrt(var + eps), with the
  running statistics, as the teacher's are folded (method, section 1).

  Args:
    params: of a distiller that was trained; memories stay as they are.
    batch_stats: its running statistics.

  Returns:
    Parameters, float32 at least.
  """
  if 'norm' not in params:
    return {
      name: fold_batch_norm(value, batch_stats.get(name, {}))
      if isinstance(value, Mapping)
      else value
      for name, value in params.items()
    }
  gamma, beta = params['norm']['scale'], params['norm']['bias']
  mean, variance = batch_stats['norm']['mean'], batch_stats['norm']['var']
  scale = gamma / jnp.sqrt(variance + BATCH_NORM_EPSILON)
  bias = beta - mean * scale
  if 'conv' in params:
    return {'conv': {'kernel': params['conv']['kernel'] * scale, 'bias': bias}}
  return {'kernel': params['kernel'] * scale, 'bias': bias}


def fold_values(stage: Mapping[str, Any], values: jax.Array) -> dict[str, Any]:
  """What a student stage takes whose input ends in addressing weights, not in a recall.

  The convolutions that see the recall r = w V are linear, K r = (V K) w, and a
  memory has far fewer items than features: V K is the smaller kernel.

  Args:
    stage: folded parameters of the stage behind a memory.
    values: V, [L, C].

  Returns:
    Parameters, with kernels for L inputs in the place of the last C.
  """
  block = dict(stage['block0'])
  for name in ('conv1', 'shortcut'):
    layer = block[name]
    if 'conv' in layer:  # [height, width, input, output]
      folded = _fold_last(layer['conv']['kernel'], values, 'hwcf,lc->hwlf', 2)
      block[name] = {'conv': layer['conv'] | {'kernel': folded}}
    else:  # of an UpConv, [input, height, width, output]
      folded = _fold_last(layer['kernel'], values, 'chwf,lc->lhwf', 0)
      block[name] = layer | {'kernel': folded}
  return dict(stage) | {'block0': block}


def _fold_last(kernel: jax.Array, values: jax.Array, product: str, axis: int) -> jax.Array:
  border = kernel.shape[axis] - values.shape[1]
  of_query, of_recall = jnp.split(kernel, [border], axis)
  folded = jnp.einsum(product, of_recall, values, precision='highest')
  return jnp.concatenate([of_query, folded], axis)
