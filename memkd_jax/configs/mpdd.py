"""MPDD, 6 categories: the paper's Table 3b.

Expected (paper, wide_resnet50_2, mean of 6 categories): I-AUC 95.4, I-AP 97.3,
P-AUC 98.4, P-AP 46.1, P-PRO 95.9. Not measured here: neither the data nor
wide_resnet50_2 weights were at hand.

  python -m memkd_jax.main --config=configs/mpdd.py --workdir=runs/mpdd
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('mpdd', method)
