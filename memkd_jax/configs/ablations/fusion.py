"""How query and recall enter the stage behind a memory.

  python -m memkd_jax.main --config=configs/ablations/fusion.py --workdir=runs/fusion \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (fusion, (('model.fusion', fusion),)) for fusion in ('concat', 'add', 'replace')
  )
  return config
