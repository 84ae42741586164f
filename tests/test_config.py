import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from memkd_jax import config as base
from memkd_jax import main, methods
from memkd_jax.config import values
from memkd_jax.configs import best, demo
from memkd_jax.data import datasets, sampling
from memkd_jax.errors import UserError
from memkd_jax.methods import losses
from memkd_jax.models import resnet
from memkd_jax.scoring import resolution
from memkd_jax.teachers import extractor

FIELDS = {field.name: field for field in methods.fields('memkd')}
CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('[!_]*.py'))


def put(config, field, value):
  """Sets a field, whatever the value's type."""
  section, _, name = field.rpartition('.')
  inner = config[section] if section else config
  with inner.ignore_type():
    inner[name] = value


def test_there_are_configs():
  assert {p.stem for p in CONFIGS} >= {
    'demo',
    'folder',
    'mvtec',
    'visa',
    'mpdd',
    'mvtec_3d',
    'eyecandies',
    'btad',
    'ksdd',
    'ksdd2',
    'vad',
    'real_iad',
    'dagm',
  }


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_resolves(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  resolved = methods.resolve(module.get_config())
  assert Path(resolved.data.dir).is_absolute()
  resolved.to_json()


def test_the_demo_has_the_preset_too():
  preset, found = best.get_config('demo'), demo.get_config('best')
  for section in ('method', 'loss', 'anomaly_map'):
    assert found[section].to_dict() == preset[section].to_dict()
  assert (found.train.batch_size, found.train.epochs) == (8, 20)
  assert (found.model.backbone, found.model.teacher_weights) == ('resnet18', 'demo')
  assert demo.get_config().method.name == 'memkd'


def test_the_papers_values_are_the_defaults():
  config = methods.get_config()
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
  config = methods.get_config()
  config.model.backbone = 'resnet18'
  config.model.memories = (3, 1, 3)
  resolved = methods.resolve(config)
  assert resolved.data.dir == str(tmp_path / 'mvtec_ad')
  assert resolved.model.teacher_weights == base.AUTO_TEACHER
  config.model.teacher_weights = 'weights/{backbone}.safetensors'
  own = methods.resolve(config).model.teacher_weights
  assert own == str(Path('weights/resnet18.safetensors').absolute())
  assert resolved.model.memories == (1, 3)
  assert config.model.memories == (3, 1, 3)  # the caller's stays as it is


def test_seeds_stand_in_for_seed_and_buckets_stay_as_they_are():
  config = methods.get_config()
  config.seed = 3
  assert methods.resolve(config).seeds == (3,)
  config.seeds = (1, 0, 1)
  assert methods.resolve(config).seeds == (1, 0)
  config.data.dir = 'gs://bucket/data'
  assert methods.resolve(config).data.dir == 'gs://bucket/data'


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
    ('anomaly_map.combine', 'mean'),
    ('seed', -1),
    ('seeds', (0, -1)),
    ('seeds', (True,)),
    ('data.source', 'zip'),
    ('eval.preset', 'best'),
    ('eval.resolution', 'best'),
    ('method.name', 'best'),
    ('method.name', 'rd'),
    ('model.temperature', 1e-7),
    ('train.holdout', 0.6),
    ('train.adam_b2', -0.1),
    ('data.threads', 1000),
    ('train.epochs', 1.5),
    ('model.backbone', 'a\nb'),
    ('model.student', 1),
    ('model.paradigm', 'sideways'),
    ('model.student', 'resnet50'),
    ('model.projection', True),
    ('model.memory_layout', 'behind'),
    ('model.bottleneck_dropout', 1.0),
    ('model.adapt_teacher', 1),
    ('loss.orth', 'both'),
    ('loss.hardest', -1),
    ('loss.easy_share', 1.1),
    ('loss.easy_factor', -0.1),
    ('train.feature_noise', 'perlin'),
    ('train.noise_share', 2.0),
    ('train.adapt_rate', -1.0),
    ('train.schedule', 'step'),
    ('train.warmup', 1.0),
    ('train.stop', 'never'),
    ('train.stop_share', 0.0),
    ('train.patience', 0),
    ('anomaly_map.image_score', 'mean'),
    ('anomaly_map.normalize', 'pixel'),
  ],
)
def test_impossible_values_are_named(field, value):
  config = methods.get_config()
  put(config, field, value)
  named = 'model.memories' if (field, value) == ('method.name', 'rd') else field
  with pytest.raises(UserError, match=f'(?s)--config.{named}=.*: '):
    methods.resolve(config)


@pytest.mark.parametrize(
  ('field', 'value', 'what'),
  [
    ('model.fusion', 'sum', 'is one of concat, add, replace'),
    (
      'model.backbone',
      'vgg16',
      'is one of auto, resnet18, resnet34, resnet50, wide_resnet50_2',
    ),
    ('model.stages', (4,), 'holds only 1, 2 and 3'),
    ('model.stages', (), 'names at least one stage'),
    ('eval.preset', 'best', 'is one of rd4ad, original'),
    ('data.image_size', 100, 'is a multiple of 32 pixels'),
    ('data.image_size', 10016, 'is at most 8,192'),
    ('data.image_size', (64, 10016), 'is at most 8,192'),
    ('data.image_size', (64, 100), 'is a multiple of 32 pixels, or two of them: height,width'),
    ('data.image_size', (), 'is a multiple of 32 pixels'),
    ('data.image_size', (32, 32, 3), 'is a multiple of 32 pixels'),
    ('data.image_size', (32, 64.0), 'is a multiple of 32 pixels'),
    ('data.image_size', '64', 'is of the type int or tuple'),
    ('train.epochs', 0, 'is positive and finite'),
    ('train.learning_rate', float('nan'), 'is positive and finite'),
    ('train.learning_rate', 1e7, 'is at most 1,000,000.0'),
    ('model.temperature', 1e-7, 'is at least 1e-06'),
    ('loss.lambda_nm', -1.0, 'is finite and not negative'),
    ('train.adam_b1', 1.0, r'lies in \[0, 1\)'),
    ('train.holdout', 0.6, r'lies in \[0, 0.5\]'),
    ('train.epochs', True, 'is of the type int'),
    ('seed', 2**63, r'is whole, not negative, and below 2\*\*63'),
    ('data.categories', '\0', 'can be printed'),
    ('method.name', 'best', 'is one of memkd, rd, memmkd, mkd'),
    ('model.projection', True, 'is False, or choose --config.model.paradigm=forward'),
  ],
)
def test_an_error_says_what_would_be_right(field, value, what):
  config = methods.get_config()
  put(config, field, value)
  with pytest.raises(UserError, match=f'(?s)=.*: give a value that {what}.'):
    methods.resolve(config)


def test_a_product_of_maps_below_their_means_is_refused():
  config = methods.get_config(method='knn')
  config.anomaly_map.combine, config.anomaly_map.normalize = 'product', 'stage'
  with pytest.raises(
    UserError, match=r'normalize=stage: .* choose --config.anomaly_map.combine=sum'
  ):
    methods.resolve(config)


def test_bounds_and_choices_hold_every_default():
  for field in FIELDS.values():
    if field.high is not None:
      assert field.low <= field.default <= field.high, field.name
    if field.choices:
      chosen = field.default if isinstance(field.default, tuple) else (field.default,)
      assert set(chosen) <= {*field.choices, *field.unlisted}, field.name
    is_number = type(field.default) in (int, float)
    assert (field.high is not None) == (is_number and field.name != 'seed'), field.name


def test_choices_are_those_of_the_rooms_that_cannot_read_the_table():
  assert FIELDS['data.dataset'].choices == tuple(datasets.DATASETS)
  assert FIELDS['data.source'].choices == datasets.SOURCES
  assert FIELDS['train.exemplar_resample'].choices == sampling.RESAMPLES
  assert resnet.BACKBONES == base.BACKBONES
  assert tuple(resnet.ARCHITECTURES) == base.BACKBONES + base.TINY_BACKBONES
  assert FIELDS['eval.resolution'].choices == resolution.RESOLUTIONS
  assert FIELDS['loss.kd'].choices == losses.KD_READINGS
  assert (base.RANDOM_TEACHER, base.DEMO_TEACHER_FILE) == (
    extractor.RANDOM,
    extractor.DEMO_FILE,
  )


def test_what_a_run_may_go_on_with():
  resumable, scoring = (f(FIELDS.values()) for f in (base.resumable, base.scoring))
  assert {'data.dir', 'seeds', 'train.log_steps', 'train.keep_checkpoints'} <= resumable
  assert not {'data.image_size', 'train.epochs', 'eval.resolution', 'method.name'} & resumable
  evaluation = {name for name in FIELDS if name.startswith(('eval.', 'anomaly_map.'))}
  assert scoring == evaluation


def test_values_of_the_last_release_are_replaced_with_a_note(capsys):
  values._note.cache_clear()
  config = methods.get_config()
  config.loss.kd, config.eval.preset = 'pixel', 'original'
  for _ in range(2):
    resolved = methods.resolve(config)
    assert (resolved.loss.kd, resolved.eval.preset) == ('local_cosine', '')
    assert resolved.eval.resolution == 'original'
  notes = capsys.readouterr().out.splitlines()
  assert len(notes) == 2
  assert '--config.eval.preset=original is --config.eval.resolution=original now' in notes[0]


@pytest.mark.parametrize(
  ('method', 'paradigm', 'memories'),
  [
    ('memkd', 'reverse', (1, 2, 3)),
    ('rd', 'reverse', ()),
    ('memmkd', 'forward', (1, 2, 3)),
    ('mkd', 'forward', ()),
  ],
)
def test_a_method_is_a_name_for_fields(method, paradigm, memories):
  resolved = methods.resolve(methods.get_config('visa', method))
  by_fields = methods.get_config('visa')
  by_fields.model.update({'paradigm': paradigm, 'memories': memories})
  assert methods.resolve(by_fields) == resolved
  assert methods.resolve(resolved) == resolved
  assert (resolved.method.name, resolved.model.memories) == (method, memories)


def test_a_further_method_is_a_module_and_a_line(monkeypatch):
  module = type(sys)('memkd_jax.methods.toy')
  module.FIELDS = (
    base.Field('method.share', 0.1, 'Share of what is kept', high=1),
    base.Field('method.metric', 'cosine', 'The distance', choices=('cosine', 'l2')),
  )
  module.create = lambda config, extractor, devices: (config.method.share, extractor)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.setitem(methods.METHODS, 'toy', 'toy')
  resolved = methods.resolve(methods.get_config('folder', 'toy'))
  assert resolved.method.to_dict() == {'name': 'toy', 'share': 0.1, 'metric': 'cosine'}
  assert 'epochs' not in resolved.train
  assert methods.create(resolved, 'teacher', None) == (0.1, 'teacher')
  resolved.method.share = 1.5
  with pytest.raises(UserError, match=r'--config.method.share=1.5: .* lies in \[0, 1\]'):
    methods.resolve(resolved)
  config = methods.get_config()
  config.method.name = 'toy'
  with pytest.raises(UserError, match=r'--config.method.name=toy: .* --config=.*:toy'):
    methods.resolve(config)


def test_fields_are_described_without_jax():
  program = (
    'import sys\nfrom memkd_jax import config, methods\n'
    'print(config.describe(methods.fields("memkd")))\n'
    'assert not {"jax", "flax", "numpy"} & set(sys.modules)'
  )
  text = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  ).stdout
  assert max(map(len, text.splitlines())) <= 96
  for field in FIELDS.values():
    assert (f'--config.{field.name}=' in text) == bool(field.help)
  assert 'One of concat, add, replace.' in text


@pytest.mark.parametrize(('dataset', 'holdout'), [('mvtec_ad', 0.0), ('folder', 0.1)])
def test_recall_only_is_for_any_data_set(dataset, holdout):
  path = Path(__file__).parents[1] / 'configs' / 'recall_only.py'
  get_config = runpy.run_path(str(path))['get_config']
  config = methods.resolve(get_config(dataset))
  assert config.model.fusion == 'replace'
  assert (config.data.dataset, config.train.holdout) == (dataset, holdout)


@pytest.mark.parametrize(('dataset', 'holdout'), [('mvtec_ad', 0.0), ('folder', 0.1)])
def test_best_is_for_any_data_set(dataset, holdout):
  config = methods.resolve(main.load_config(f'best:{dataset}'))
  assert (config.method.name, config.data.dataset) == ('ensemble', dataset)
  assert config.train.holdout == holdout


def test_python_names_fields_by_their_last_name_or_in_full():
  fields = methods.fields('memkd')
  given = {'epochs': 3, 'train__batch_size': 8, 'seed': 1, 'sigma': 2.0}
  assert base.by_short_names(fields, given) == {
    'train.epochs': 3,
    'train.batch_size': 8,
    'seed': 1,
    'anomaly_map.sigma': 2.0,
  }


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('batch_size', 'batch_size may be eval__batch_size and train__batch_size'),
    ('epoch', 'no field epoch; did you mean epochs'),
    ('train__nothing', 'no field train__nothing; memkd train --help'),
  ],
)
def test_a_field_that_is_none_or_several_is_refused(name, message):
  with pytest.raises(UserError, match=message):
    base.by_short_names(methods.fields('memkd'), {name: 1})


def test_the_teacher_of_ones_own_images_is_one_for_the_device(monkeypatch):
  from memkd_jax.runtime import devices

  config = methods.get_config()
  config.model.backbone = 'auto'
  assert methods.resolve(config).model.backbone == 'resnet18'
  monkeypatch.setattr(devices, 'backend', lambda: 'gpu')
  assert methods.resolve(config).model.backbone == 'wide_resnet50_2'


@pytest.mark.parametrize(
  ('given', 'size'), [('64', 64), ('(64,64)', 64), ('64,96', (64, 96)), ('(64,96)', (64, 96))]
)
def test_a_size_is_one_number_or_height_and_width(given, size):
  config = main.load_config('folder', [f'--config.data.image_size={given}'])
  assert methods.resolve(config).data.image_size == size
