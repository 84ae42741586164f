"""MVTec AD, 15 categories: the paper's Tables 1 and 2.

Expected (paper, wide_resnet50_2, mean of 15 categories): I-AUC 99.6, P-AUC 98.2,
P-PRO 94.5. Not measured here: no wide_resnet50_2 weights were at hand.

  python -m memkd_jax.main --config=configs/mvtec.py --workdir=runs/mvtec
  python -m memkd_jax.main --config=configs/mvtec.py --workdir=runs/bottle \\
      --config.data.dir=DIR --config.data.categories=bottle \\
      --config.model.backbone=resnet18 --config.train.epochs=20
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('mvtec_ad', method)
