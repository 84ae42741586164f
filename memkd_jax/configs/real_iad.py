"""Real-IAD, 30 objects of which each part is seen from five sides.

One model for the five views of an object, as in the publisher's multi-view experiments. The
paper has no figures for it, and none were measured here: the data were not at hand.

  python -m memkd_jax.main --config=configs/real_iad.py --workdir=runs/real_iad
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('real_iad', method)
