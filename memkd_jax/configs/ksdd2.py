"""KolektorSDD2, one surface; its defective training images are left out.

The paper has no figures for it, and none were measured here: the data were not at
hand.

  python -m memkd_jax.main --config=configs/ksdd2.py --workdir=runs/ksdd2
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('ksdd2', method)
