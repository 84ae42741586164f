"""Several methods on the same images, with the same teacher: which detector for these parts?

All of them where nothing else is asked for, or those after the colon. They share the fields of
data, model and eval, the seeds and, those that train, the epochs; all else is as in a run of
its own. One's own images as in configs/folder.py, or another data.dataset.

  python -m memkd_jax.main --config=configs/compare.py --workdir=runs/compared \\
      --config.data.dir=DIR --config.seeds=0,1,2
  python -m memkd_jax.main --config=configs/compare.py:memkd,knn,patchcore \\
      --workdir=runs/compared --good=FOLDER
"""

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.configs import folder


def get_config(names: str = 'all') -> ConfigDict:
  """The methods by the keys of `methods.METHODS`, separated by commas."""
  chosen = tuple(methods.METHODS) if names == 'all' else tuple(names.split(','))
  for name in chosen:
    methods.fields(name)  # raises UserError where there is none of that name
  config = folder.get_config()
  config.sweep.variants = tuple((name, (('method.name', name),)) for name in chosen)
  return config
