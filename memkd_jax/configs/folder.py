"""One's own images, in the layout of MVTec AD with or without ground_truth/.

  DIR/<category>/train/good/*
  DIR/<category>/test/{good,<defect>}/*
  DIR/<category>/ground_truth/<defect>/<id>_mask.png

A tenth of train/good is held out, to set a threshold with: at least 9 images, and where that is
more than a third of them, none; then 4 further models are trained for the threshold.

  python -m memkd_jax.main --config=configs/folder.py --workdir=runs/mine \\
      --config.data.dir=DIR --config.data.categories=NAME
"""

from ml_collections import ConfigDict

from memkd_jax import methods

OWN = ('folder', 'folder_3d')  # data sets of one's own images
EPOCHS = 40  # by the loss on held-out normal images, and the clock: docs/tutorial.md


def get_config(method: str = 'memkd') -> ConfigDict:
  return for_own_images(methods.get_config('folder', method))


def for_own_images(config: ConfigDict) -> ConfigDict:
  """Sets the teacher by the machine, normal images held out, and the time that there is."""
  if config.data.dataset == 'folder_3d':
    config.data.inputs = ('rgb', 'normals')
  config.model.backbone = 'auto'
  config.train.holdout = 0.1
  config.train.calibration = 'auto'
  if 'epochs' in config.train:  # some methods do with fewer
    config.train.epochs = min(EPOCHS, config.train.epochs)
  return config
