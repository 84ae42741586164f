"""VisA, 12 categories, split 1cls: the paper's Table 3a.

Expected (paper, wide_resnet50_2, mean of 12 categories): I-AUC 97.6, I-AP 98.6,
P-AUC 98.4, P-AP 44.1, P-PRO 94.9. Not measured here: neither the data nor
wide_resnet50_2 weights were at hand.

  python -m memkd_jax.main --config=configs/visa.py --workdir=runs/visa
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('visa', method)
