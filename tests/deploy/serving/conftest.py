"""Tiny models for all tests of the server."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from memkd_jax import config as base
from memkd_jax.detector import Detector
from memkd_jax.methods.distillation import System
from memkd_jax.run import run_config
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.calibration import Calibration


def tiny(folder: Path) -> ConfigDict:
  config = base.get_config()
  config.data.dataset = 'folder'
  config.data.dir = str(folder)
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
  return config


@pytest.fixture(scope='session')
def detectors() -> dict[str, Detector]:
  """Of bolt and nut, untrained, which matters to no server; their thresholds differ."""
  config = base.resolve(tiny(Path('none')))
  system = System(config, Devices(jax.local_devices()[:1]))
  images = np.random.default_rng(0).integers(0, 128, (4, 32, 32, 3), np.uint8)
  variables = system.folded_variables(system.init_state('bolt', 0, images))
  judging = {}
  for category in ('bolt', 'nut'):
    detector = Detector(system, variables, category, None, None)
    result = detector(images)
    scores = result.scores * (1 if category == 'bolt' else 2)
    calibration = Calibration.from_maps(result.maps, scores)
    judging[category] = Detector(system, variables, category, calibration, None)
  return judging


@pytest.fixture(scope='session')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A finished run of bolt; takes half a minute, so it is for slow tests alone."""
  folder = tmp_path_factory.mktemp('serving')
  for split, number in (('train/good', 12), ('test/good', 1), ('test/hole', 1)):
    for i in range(number):
      path = folder / 'data' / 'bolt' / split / f'{i}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = np.random.default_rng(i).integers(0, 128, (32, 32, 3), np.uint8)
      Image.fromarray(pixels).save(path)
  run_config(tiny(folder / 'data'), folder / 'run', 'train')
  return folder / 'run'
