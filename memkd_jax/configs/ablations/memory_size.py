"""How many items L a memory holds.

  python -m memkd_jax.main --config=configs/ablations/memory_size.py \\
      --workdir=runs/memory_size --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'L = {items}', (('model.memory_items', items),)) for items in (10, 25, 50, 100, 200)
  )
  return config
