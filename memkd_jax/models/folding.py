"""Folds BatchNorms and memory values into the student's convolutions, for inference.

And back again, where a training goes on from a trained model: `unfolding` keeps what folding
loses, a BatchNorm's four vectors and the kernels that see a recall.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from memkd_jax.models.layers import BATCH_NORM_EPSILON

# By less than this a kernel cannot be divided again: the product is too small for float32.
_SMALLEST_SCALE = 1e-20
_BEFORE_RECALL = ('conv1', 'shortcut')  # the layers of a stage's first block that see its input


def fold_batch_norm(
  params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> dict[str, Any]:
  """What a distiller takes whose `folded` is True.

  w' = w gamma / sqrt(var + eps) and b' = beta - mean gamma / sqrt(var + eps), with the
  running statistics, as the teacher's are folded (method, section 1).

  Args:
    params: parameters of a trained distiller; memories stay as they are.
    batch_stats: running means and variances of its BatchNorms.

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
  beta, mean = params['norm']['bias'], batch_stats['norm']['mean']
  scale = _scale(params['norm']['scale'], batch_stats['norm']['var'])
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
    values: V, the values of the memory, [L, C].

  Returns:
    Parameters, with kernels for L inputs in the place of the last C.
  """
  block = dict(stage['block0'])
  for name in _BEFORE_RECALL:
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


def unfolding(params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
  """What `fold_batch_norm` loses of each layer, by the layer's place.

  Args:
    params: parameters of a trained distiller.
    batch_stats: running means and variances of its BatchNorms.

  Returns:
    {'norm': {'scale', 'bias', 'mean', 'var'}} in the place of each convolution; beside it its
    'kernel' as a whole, where the scale of a channel is (nearly) zero and leaves nothing of it
    in the folded one.
  """
  if 'norm' not in params:
    inner = {
      name: unfolding(value, batch_stats.get(name, {}))
      for name, value in params.items()
      if isinstance(value, Mapping)
    }
    return {name: kept for name, kept in inner.items() if kept}
  norm = {**params['norm'], **batch_stats['norm']}
  kept: dict[str, Any] = {'norm': norm}
  if jnp.min(jnp.abs(_scale(norm['scale'], norm['var']))) < _SMALLEST_SCALE:
    kept['kernel'] = _kernel(params)
  return kept


def unfolding_of_recall(
  kept: Mapping[str, Any], stage: Mapping[str, Any], values: jax.Array
) -> dict[str, Any]:
  """What `fold_values` loses of a stage: the part of its kernels that sees the recall.

  V K has a row for each of L items and K one for each of C features, as a rule ten times as
  many, so that K does not follow from it.

  Args:
    kept: what `unfolding` gave for the stage.
    stage: the stage's trained parameters, not folded.
    values: V, [L, C], of the memory before it.

  Returns:
    `kept`, with 'recall' beside 'norm' where there is no 'kernel'.
  """
  block = dict(kept['block0'])
  for name in _BEFORE_RECALL:
    if 'kernel' not in block[name]:
      kernel, axis = _kernel(stage['block0'][name]), _input_axis(stage['block0'][name])
      border = kernel.shape[axis] - values.shape[1]
      _, of_recall = jnp.split(kernel, [border], axis)
      block[name] = block[name] | {'recall': of_recall}
  return dict(kept) | {'block0': block}


def unfold(
  folded: Mapping[str, Any], kept: Mapping[str, Any], items: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Undoes folding: all values to a unit in the last place.

  Args:
    folded: what `fold_batch_norm` and `fold_values` gave.
    kept: what `unfolding` and `unfolding_of_recall` gave of the same parameters.
    items: L, the number of a memory's items.

  Returns:
    (params, batch_stats).
  """
  if 'norm' in kept:
    norm = kept['norm']
    kernel = kept['kernel'] if 'kernel' in kept else _unfolded_kernel(folded, kept, items)
    layer = {'conv': {'kernel': kernel}} if 'conv' in folded else {'kernel': kernel}
    layer['norm'] = {name: norm[name] for name in ('scale', 'bias')}
    return layer, {'norm': {name: norm[name] for name in ('mean', 'var')}}
  params: dict[str, Any] = {}
  batch_stats: dict[str, Any] = {}
  for name, value in folded.items():
    params[name] = value
    if name in kept:
      params[name], batch_stats[name] = unfold(value, kept[name], items)
  return params, batch_stats


def _unfolded_kernel(
  folded: Mapping[str, Any], kept: Mapping[str, Any], items: int
) -> jax.Array:
  kernel = _kernel(folded) / _scale(kept['norm']['scale'], kept['norm']['var'])
  if 'recall' not in kept:
    return kernel
  axis = _input_axis(folded)
  of_query, _ = jnp.split(kernel, [kernel.shape[axis] - items], axis)
  return jnp.concatenate([of_query, kept['recall']], axis)


def _scale(gamma: jax.Array, variance: jax.Array) -> jax.Array:
  return gamma / jnp.sqrt(variance + BATCH_NORM_EPSILON)


def _kernel(layer: Mapping[str, Any]) -> jax.Array:
  """Of a Conv [height, width, input, output], of an UpConv [input, height, width, output]."""
  kernel: jax.Array = layer['conv']['kernel'] if 'conv' in layer else layer['kernel']
  return kernel


def _input_axis(layer: Mapping[str, Any]) -> int:
  return 2 if 'conv' in layer else 0
