"""The demo: what runs without any flag. See configs/demo.py."""

from ml_collections import ConfigDict

from memkd_jax import config as base


def get_config() -> ConfigDict:
  config = base.get_config('demo')
  config.data.dir = base.data_dir('memkd_demo_textures')
  config.data.image_size = 128
  config.model.backbone = 'resnet18'
  config.model.teacher_weights = base.DEMO_TEACHER
  config.train.epochs = 20
  return config
