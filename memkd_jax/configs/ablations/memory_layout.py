"""Where the memories sit: before each student stage, or behind the stage of their number.

  python -m memkd_jax.main --config=configs/ablations/memory_layout.py \\
      --workdir=runs/memory_layout --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (f'memories {layout}', (('model.memory_layout', layout),))
    for layout in ('before', 'aligned')
  )
  return config
