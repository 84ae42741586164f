"""The temperature of the softmax over the cosines.

  python -m memkd_jax.main --config=configs/ablations/temperature.py \\
      --workdir=runs/temperature --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'temperature = {value}', (('model.temperature', value),))
    for value in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
  )
  return config
