"""The demo, which runs where no config is given: three textures with painted defects.

Nothing is downloaded: the textures come with scikit-image, the teacher with this package.
The method stands after the colon; `best` is the preset of configs/best.py. Expected means over
the textures, three seeds, jax 0.12.0.1: I-AUC 94.9, P-AUC 96.2, P-PRO 85.7 with `best`.
docs/demo.md has the other methods; without a colon it is MemKD alone, as in the paper.

  python -m memkd_jax.main --config=configs/demo.py:best --workdir=runs/demo
"""

from ml_collections import ConfigDict

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.configs import best


def get_config(method: str = 'memkd') -> ConfigDict:
  config = best.get_config('demo') if method == 'best' else methods.get_config('demo', method)
  config.data.dir = base.data_dir('memkd_demo_textures')
  config.data.image_size = 128
  config.model.backbone = 'resnet18'
  config.model.teacher_weights = base.DEMO_TEACHER
  if 'epochs' in config.train:  # not every method trains
    config.train.epochs = min(20, config.train.epochs)
  return config
