"""One tiny run of two categories for all tests of the server."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memkd_jax import config as base
from memkd_jax import train
from memkd_jax.calibration import Calibration, read_calibration, write_calibration
from memkd_jax.detector import load


def save_texture(path: Path, seed: int) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 128, (32, 32, 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture(scope='session')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A finished run of bolt, and of nut, which is the same with twice the threshold."""
  folder = tmp_path_factory.mktemp('serving')
  for split, number in (('train/good', 12), ('test/good', 1), ('test/hole', 1)):
    for i in range(number):
      save_texture(folder / 'data' / 'bolt' / split / f'{i}.png', i)
  config = base.get_config()
  config.data.dataset = 'folder'
  config.data.dir = str(folder / 'data')
  config.data.categories = 'bolt'
  config.data.image_size = 32
  config.data.threads = 2
  config.model.backbone = 'tiny_basic'
  config.model.teacher_weights = base.RANDOM_TEACHER
  config.model.memory_items = 5
  config.train.epochs = 1
  config.train.batch_size = 4
  config.train.exemplars = 4
  config.train.holdout = 0.3
  config.eval.batch_size = 4
  train.run(config, folder / 'run', 'train')
  shutil.copytree(folder / 'run' / 'bolt', folder / 'run' / 'nut')
  calibration = read_calibration(folder / 'run' / 'nut' / 'seed_0')
  assert calibration is not None
  write_calibration(
    folder / 'run' / 'nut' / 'seed_0', Calibration(calibration.scores * 2, calibration.pixels)
  )
  return folder / 'run'


@pytest.fixture(scope='session')
def detectors(workdir: Path):
  """Both, compiled by whoever uses them first."""
  return {category: load(workdir, category) for category in ('bolt', 'nut')}
