"""Tiny models for all tests of the server."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from fastapi.testclient import TestClient
from ml_collections import ConfigDict
from PIL import Image
from serving_client import LIMITS, started

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.deploy.serving.app import create_app
from memkd_jax.detector import Detector, Program
from memkd_jax.methods.base import Task
from memkd_jax.run import run_config
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.workdir import TrainedModel


def tiny(folder: Path) -> ConfigDict:
  config = methods.get_config()
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
def detectors(make_method) -> dict[str, Detector]:
  """Of bolt and nut, untrained, which matters to no server; their thresholds differ."""
  config = methods.resolve(tiny(Path('none')))
  trainer = make_method(config, Devices(jax.local_devices()[:1])).trainer
  images = np.random.default_rng(0).integers(0, 128, (4, 32, 32, 3), np.uint8)
  params = trainer.fold(trainer.init_state(Task.of_category('bolt', 0), images))
  bolt = TrainedModel('bolt', 0, config, 'random', params, 4, '', {}, None)
  program = Program.build(bolt, None)
  result = Detector(bolt, program, None)(images)
  judging = {}
  for category, factor in (('bolt', 1), ('nut', 2)):
    calibration = Calibration.from_maps(result.maps, factor * result.scores)
    trained = dataclasses.replace(bolt, name=category, calibration=calibration)
    judging[category] = Detector(trained, program, 0.2)
  return judging


@pytest.fixture(scope='module')
def client(detectors: dict[str, Detector]) -> Iterator[TestClient]:
  """Of a server of both, which has compiled."""
  with started(create_app(detectors, LIMITS)) as client:
    yield client


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
