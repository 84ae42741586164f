"""What keys and values start from.

  python -m memkd_jax.main --config=configs/ablations/memory_init.py \\
      --workdir=runs/memory_init --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (init, (('model.memory_init', init),)) for init in ('normal', 'exemplars')
  )
  return config
