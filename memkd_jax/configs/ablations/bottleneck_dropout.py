"""Dropout on the embedding in training.

  python -m memkd_jax.main --config=configs/ablations/bottleneck_dropout.py \\
      --workdir=runs/bottleneck_dropout --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'dropout {rate:g}', (('model.bottleneck_dropout', rate),)) for rate in (0.0, 0.2, 0.4)
  )
  return config
