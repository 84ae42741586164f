"""Folds the student's BatchNorms into its convolutions, for inference."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

_EPSILON = 1e-5  # of `layers.batch_norm`


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
  scale = gamma / jnp.sqrt(variance + _EPSILON)
  bias = beta - mean * scale
  if 'conv' in params:
    return {'conv': {'kernel': params['conv']['kernel'] * scale, 'bias': bias}}
  return {'kernel': params['kernel'] * scale, 'bias': bias}
