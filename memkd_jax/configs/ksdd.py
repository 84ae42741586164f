"""KolektorSDD, electrical commutators in 3 folds by object: fold_0, fold_1 and fold_2.

The folds are made here, not the publisher's: docs/benchmarks/ksdd.md tells how. The paper
has no figures for it, and none were measured here: the data were not at hand.

  python -m memkd_jax.main --config=configs/ksdd.py --workdir=runs/ksdd
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('ksdd', method)
