"""The demo, which runs where no config is given: three textures with painted defects.

Nothing is downloaded: the textures come with scikit-image, the teacher with this package.
Expected (seed 0, mean of the textures, jax 0.10.2): I-AUC 86.5, P-AUC 90.4, P-PRO 70.0, after
162 s on two cores of an AMD EPYC; docs/demo.md has those of jax 0.12, whose I-AUC is lower.

  python -m memkd_jax.main --config=configs/demo.py --workdir=runs/demo
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
