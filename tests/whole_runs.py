"""What tests of whole runs share; `share_compilations` of conftest makes them quick."""

import json

import jax
import numpy as np
import pytest

from memkd_jax import methods, run, worker
from memkd_jax.data.tiling import Tiling
from memkd_jax.methods import descent, resolve
from memkd_jax.methods.base import Task
from memkd_jax.methods.distillation import Distillation
from memkd_jax.run import run_config
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.training.checkpoint import Checkpoints

STEPS = 4 * 10 // 8
BOLT = Task.of_category('bolt', 0)


def tiny_of(method, tiny, **options):
  """A tiny config as `make_config` gives it, for another method."""
  config = methods.get_config('folder', method)
  config.data, config.eval = tiny.data, tiny.eval
  for name in ('backbone', 'teacher_weights'):
    config.model[name] = tiny.model[name]
  config.update_from_flattened_dict(options)
  return config


def method_of(config):
  """The method with which `run_config` would run."""
  config = resolve(config)
  model = config.model
  extractor = run.FeatureExtractor(model.backbone, model.teacher_weights, model.dtype)
  return methods.create(config, extractor, Devices())


def scorer_of(config):
  method, config = method_of(config), resolve(config)
  pipeline = Pipeline(method.extractor, method, **config.anomaly_map.to_dict())
  params, size = method.extractor.params, config.eval.batch_size
  return worker.Scorer(pipeline, Tiling.of_config(config.data), params, method.devices, size)


def final_state(config, workdir, category='bolt', seed=0):
  """What a run with train.keep_checkpoints ended with."""
  images = np.zeros((10, 32, 32, 3), np.uint8)
  with Checkpoints(workdir / category / f'seed_{seed}' / 'checkpoints') as checkpoints:
    assert checkpoints.latest_step() == STEPS
    like = method_of(config).trainer.init_state(Task.of_category(category, seed), images)
    return checkpoints.restore(like)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def forbid_training(monkeypatch, method=Distillation):
  def fail(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(method, 'fit', fail)


def stop_after(monkeypatch, config, workdir, steps, **options):
  """Runs, and interrupts before the next step."""
  order, calls = descent.batch_indices, []

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) > steps:
      raise KeyboardInterrupt
    return order(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(descent, 'batch_indices', interrupted)
    with pytest.raises(KeyboardInterrupt):
      run_config(config, workdir, **options)


def log_of(workdir, category='bolt'):
  lines = (workdir / category / 'seed_0' / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]
