import importlib.util
import runpy
from pathlib import Path

import pytest

from memkd_jax import config as base
from memkd_jax.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


def test_there_are_configs():
  assert {p.stem for p in CONFIGS} >= {
    'demo',
    'folder',
    'mvtec',
    'visa',
    'mpdd',
    'mvtec_3d',
    'eyecandies',
  }


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_resolves(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  resolved = base.resolve(module.get_config())
  assert Path(resolved.data.dir).is_absolute()
  resolved.to_json()


def test_the_papers_values_are_the_defaults():
  config = base.get_config()
  assert config.model.backbone == 'wide_resnet50_2'
  assert (config.train.epochs, config.train.batch_size) == (200, 16)
  assert (config.train.learning_rate, config.train.adam_b1, config.train.adam_b2) == (
    0.005,
    0.5,
    0.999,
  )
  assert (config.model.memory_items, config.data.image_size) == (50, 256)


def test_paths_follow_backbone_and_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('MEMKD_DATA', str(tmp_path))
  config = base.get_config()
  config.model.backbone = 'resnet18'
  config.model.memories = (3, 1, 3)
  resolved = base.resolve(config)
  assert resolved.data.dir == str(tmp_path / 'mvtec_ad')
  assert resolved.model.teacher_weights.endswith('weights/resnet18.safetensors')
  assert resolved.model.memories == (1, 3)
  assert config.model.memories == (3, 1, 3)  # the caller's stays as it is


def test_seeds_stand_in_for_seed_and_buckets_stay_as_they_are():
  config = base.get_config()
  config.seed = 3
  assert base.resolve(config).seeds == (3,)
  config.seeds = (1, 0, 1)
  assert base.resolve(config).seeds == (1, 0)
  config.data.dir = 'gs://bucket/data'
  assert base.resolve(config).data.dir == 'gs://bucket/data'


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model.backbone', 'vgg16'),
    ('model.stages', ()),
    ('model.stages', (0, 1)),
    ('model.memories', (4,)),
    ('model.stages', (True, 2)),
    ('model.memories', (1.0, 2)),
    ('train.learning_rate', float('inf')),
    ('anomaly_map.sigma', float('nan')),
    ('data.dir', '~nobody_of_this_name/data'),
    ('model.fusion', 'sum'),
    ('model.temperature', 0.0),
    ('model.memory_items', 0),
    ('model.dtype', 'int8'),
    ('loss.kd', 'cosine'),
    ('loss.lambda_nm', -0.1),
    ('data.image_size', 100),
    ('data.dataset', 'imagenet'),
    ('train.batch_size', 0),
    ('train.epochs', -1),
    ('train.adam_b1', 1.0),
    ('train.exemplar_resample', 'often'),
    ('anomaly_map.sigma', -1.0),
    ('anomaly_map.combine', 'max'),
    ('seed', -1),
    ('seeds', (0, -1)),
    ('seeds', (True,)),
    ('data.source', 'zip'),
    ('eval.preset', 'best'),
    ('model.paradigm', 'sideways'),
    ('model.student', 'resnet50'),
    ('model.projection', True),
  ],
)
def test_impossible_values_are_named(field, value):
  config = base.get_config()
  *sections, name = field.split('.')
  section = config[sections[0]] if sections else config
  section[name] = value
  with pytest.raises(UserError, match=f'--config.{field}=.*: '):
    base.resolve(config)


def test_free_fields_exist():
  flat = base.get_config()
  for field in base.RESUMABLE_FIELDS:
    *section, name = field.split('.')
    assert name in (flat[section[0]] if section else flat)


@pytest.mark.parametrize(('dataset', 'holdout'), [('mvtec_ad', 0.0), ('folder', 0.1)])
def test_recall_only_is_for_any_data_set(dataset, holdout):
  path = Path(__file__).parents[1] / 'configs' / 'recall_only.py'
  get_config = runpy.run_path(str(path))['get_config']
  config = base.resolve(get_config(dataset))
  assert config.model.fusion == 'replace'
  assert (config.data.dataset, config.train.holdout) == (dataset, holdout)
