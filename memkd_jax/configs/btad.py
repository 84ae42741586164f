"""BTAD, 3 industrial products: 01, 02 and 03.

The paper has no figures for it, and none were measured here: the data were not at
hand. docs/benchmarks/btad.md has those of others.

  python -m memkd_jax.main --config=configs/btad.py --workdir=runs/btad
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('btad', method)
