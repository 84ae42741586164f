"""Eyecandies, 10 categories, RGB only as in the paper's section 4.

The supplementary prints no figures for it, and none were measured here: the data
were not at hand.

  python -m memkd_jax.main --config=configs/eyecandies.py --workdir=runs/eyecandies

Depth and normals as well with --config.data.inputs=rgb,depth,normals: docs/depth.md.
"""

from ml_collections import ConfigDict

from memkd_jax import methods


def get_config(method: str = 'memkd') -> ConfigDict:
  return methods.get_config('eyecandies', method)
