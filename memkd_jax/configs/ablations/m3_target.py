"""What the memory M_3 is taught with; stage 4 needs weights that hold it.

  python -m memkd_jax.main --config=configs/ablations/m3_target.py --workdir=runs/m3_target \\
      --config.seeds=0,1,2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config() -> ConfigDict:
  config = methods.get_config()
  config.sweep.variants = tuple(
    (target, (('model.m3_target', target),)) for target in ('stage4', 'embedding')
  )
  return config
