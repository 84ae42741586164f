"""One model for all categories of a data set; each has its own threshold and figures.

The data set's name after the colon (mvtec_ad, visa, folder or another of
memkd_jax/data/datasets.py), with a method where it is not MemKD.

  python -m memkd_jax.main --config=configs/joint.py:mvtec_ad --workdir=runs/joint
  python -m memkd_jax.main --config=configs/joint.py:folder,patchcore --workdir=runs/joint \\
      --config.data.dir=DIR
"""

from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.configs import folder


def get_config(which: str = 'folder') -> ConfigDict:
  """The name of a data set, and behind a comma a key of `methods.METHODS`."""
  dataset, _, method = which.partition(',')
  config = methods.get_config(dataset, method or 'memkd')
  if dataset in folder.OWN:
    config = folder.for_own_images(config)
  config.train.scope = 'joint'
  return config
