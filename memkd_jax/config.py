"""Every field of a run with its default, and what values it may have.

`configs/*.py` start from `get_config` and change a few fields.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.data.datasets import DATASETS, SOURCES
from memkd_jax.data.sampling import RESAMPLES
from memkd_jax.errors import UserError
from memkd_jax.methods.losses import KD_READINGS
from memkd_jax.models.distiller import FUSIONS
from memkd_jax.models.resnet import ARCHITECTURES, BACKBONES
from memkd_jax.runtime.devices import AXES
from memkd_jax.scoring.anomaly_map import COMBINES
from memkd_jax.scoring.resolution import PRESETS
from memkd_jax.training.feature_cache import CACHES

RANDOM_TEACHER = 'random'
DEMO_TEACHER = 'demo'  # a resnet18 that the package brings
DEMO_TEACHER_FILE = Path(__file__).with_name('teachers') / 'demo_teacher.safetensors'
DTYPES = ('float32', 'bfloat16', 'float64')
PARADIGMS = ('reverse', 'forward')
MEMORY_INITS = ('normal', 'exemplars')
M3_TARGETS = ('auto', 'stage4', 'embedding')

# Fields that change neither a trained parameter nor a figure: a run may go on
# with other values of these. The weights count by their content, not their path.
RESUMABLE_FIELDS = (
  'data.dir',
  'data.source',
  'data.categories',
  'data.threads',
  'eval.batch_size',
  'model.teacher_weights',
  'parallel.axis',
  'seed',
  'seeds',
  'train.cache_features',
  'train.checkpoint_steps',
  'train.log_steps',
  'train.profile',
  'train.tensorboard',
)

# What is larger is a mistake: it would take all memory before anything could be said.
UPPER_BOUNDS = {
  'anomaly_map.sigma': 1024,
  'data.image_size': 8192,
  'data.threads': 256,
  'eval.batch_size': 2**16,
  'loss.lambda_nm': 1e6,
  'loss.lambda_orth': 1e6,
  'model.memory_items': 2**20,
  'model.temperature': 1e6,
  'train.batch_size': 2**16,
  'train.checkpoint_steps': 2**31 - 1,
  'train.epochs': 10**6,
  'train.exemplars': 2**16,
  'train.learning_rate': 1e6,
  'train.log_steps': 2**31 - 1,
}
_SMALLEST_TEMPERATURE = 1e-6  # by less, float32 would divide into infinity
_LARGEST_SEED = 2**63 - 1
_SHOWN = 200  # characters of a value in an error


def get_config(dataset: str = 'mvtec_ad') -> ConfigDict:
  """The paper's main model, where the paper and the specification fix a value.

  Args:
    dataset: a key of `DATASETS`.
  """
  config = ConfigDict()
  config.seed = 0
  config.seeds = ()  # several, in place of seed: figures are means over them

  # An ablation: ((name, ((field, value), ...)), ...), and the paper's table beside it.
  config.sweep = ConfigDict()
  config.sweep.variants = ()
  config.sweep.paper = ''

  config.data = ConfigDict()
  config.data.dataset = dataset
  config.data.source = 'folder'  # 'tfds': what tools/prepare_tfds.py made of it
  config.data.dir = data_dir(dataset)  # for 'tfds' any path that TFDS opens
  config.data.categories = 'all'  # or names separated by commas
  config.data.image_size = 256  # pixels; a multiple of 32
  config.data.threads = 8  # that decode images

  config.model = ConfigDict()
  config.model.backbone = 'wide_resnet50_2'
  # A file of tools/convert_torchvision.py, 'demo' (small, in the package), or 'random'.
  config.model.teacher_weights = 'weights/{backbone}.safetensors'
  config.model.paradigm = 'reverse'  # 'forward' (MemMKD)
  # Of the forward paradigm; 'auto' is resnet50 for wide_resnet50_2, else the backbone.
  config.model.student = 'auto'
  config.model.projection = False  # True: 1x1 convolutions where the widths differ
  config.model.stages = (1, 2, 3)  # that are distilled
  config.model.memories = (1, 2, 3)  # () is RD, the baseline
  config.model.memory_items = 50  # L
  config.model.temperature = 1.0  # of the softmax over the cosines
  config.model.fusion = 'concat'  # 'add', 'replace'
  config.model.memory_init = 'normal'  # 'exemplars'
  config.model.m3_target = 'auto'  # 'stage4', 'embedding'
  config.model.dtype = 'float32'  # 'bfloat16'; 'float64' with JAX_ENABLE_X64=1

  config.loss = ConfigDict()
  config.loss.kd = 'flat'  # 'pixel'
  config.loss.lambda_nm = 0.1  # lambda_1
  config.loss.lambda_orth = 0.1  # lambda_2

  config.train = ConfigDict()
  config.train.epochs = 200
  config.train.batch_size = 16  # of all devices together
  config.train.learning_rate = 0.005
  config.train.adam_b1 = 0.5
  config.train.adam_b2 = 0.999
  config.train.exemplars = 16  # N
  config.train.exemplar_resample = 'step'  # 'epoch', 'never'
  config.train.checkpoint_steps = 200
  # The teacher's features of the training images, computed once: kept on the
  # 'device' or on the 'host', or 'off'; 'auto' takes what fits.
  config.train.cache_features = 'auto'
  # Share of the normal images that is kept out of the training, to set a threshold with.
  config.train.holdout = 0.0
  config.train.log_steps = 10
  config.train.profile = False  # True: a trace of a few steps, in profile/
  config.train.tensorboard = False  # True: event files beside metrics.jsonl

  config.parallel = ConfigDict()
  # What the devices share out: the images of every 'batch', or, with as many models in
  # training as there are devices, the categories: 'category'.
  config.parallel.axis = 'batch'

  config.anomaly_map = ConfigDict()
  config.anomaly_map.combine = 'sum'  # 'product'
  config.anomaly_map.align_corners = True
  config.anomaly_map.sigma = 4.0  # pixels of the map, which has data.image_size

  config.eval = ConfigDict()
  config.eval.batch_size = 16  # of all devices together
  # The size at which pixels are scored: 'rd4ad' data.image_size, 'original' the image's.
  config.eval.preset = 'rd4ad'
  return config


def data_dir(name: str) -> str:
  """Where a data set lies by default: under $MEMKD_DATA or ~/datasets."""
  return os.path.join(os.environ.get('MEMKD_DATA', '~/datasets'), name)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks every field, and fills in what depends on others.

  Args:
    config: as `get_config` gives it, perhaps with other values.

  Returns:
    A copy with absolute paths, sorted stages and memories, and at least one of
    `seeds`; `seed` counts no more.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  _check(config)
  config = config.copy_and_resolve_references()
  if '://' not in config.data.dir:  # of a bucket
    config.data.dir = _absolute('data.dir', config.data.dir)
  config.seeds = tuple(dict.fromkeys(config.seeds or (config.seed,)))
  config.model.student = _student(config.model)
  config.model.stages = tuple(sorted(set(config.model.stages)))
  config.model.memories = tuple(sorted(set(config.model.memories)))
  if config.model.teacher_weights == DEMO_TEACHER:
    config.model.teacher_weights = str(DEMO_TEACHER_FILE.absolute())
  elif config.model.teacher_weights != RANDOM_TEACHER:
    path = config.model.teacher_weights.replace('{backbone}', config.model.backbone)
    config.model.teacher_weights = _absolute('model.teacher_weights', path)
  return config


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'section.field': value} of a config as JSON holds it."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def _student(model: ConfigDict) -> str:
  if model.paradigm == 'reverse' or model.student != 'auto':
    return model.student
  return 'resnet50' if model.backbone == 'wide_resnet50_2' else model.backbone


def _absolute(field: str, path: str) -> str:
  try:
    return str(Path(path).expanduser().absolute())
  except (RuntimeError, ValueError) as error:  # ~ of a user who does not exist, a NUL
    raise UserError(f'--config.{field}={_show(path)}: {error}') from error


def _check(config: ConfigDict) -> None:
  _check_fields(config)
  model, train = config.model, config.train
  _one_of('data.dataset', config.data.dataset, DATASETS)
  _one_of('data.source', config.data.source, SOURCES)
  _one_of('eval.preset', config.eval.preset, PRESETS)
  if model.backbone not in ARCHITECTURES:
    _one_of('model.backbone', model.backbone, BACKBONES)
  _one_of('model.paradigm', model.paradigm, PARADIGMS)
  if model.student not in ARCHITECTURES:
    _one_of('model.student', model.student, ('auto', *BACKBONES))
  if model.paradigm == 'reverse':
    for field, default in (('student', 'auto'), ('projection', False)):
      unused = model[field] == default
      what = f'is {default}, or choose --config.model.paradigm=forward'
      _require(f'model.{field}', model[field], unused, what)
  _one_of('model.fusion', model.fusion, FUSIONS)
  _one_of('model.memory_init', model.memory_init, MEMORY_INITS)
  _one_of('model.m3_target', model.m3_target, M3_TARGETS)
  _one_of('model.dtype', model.dtype, DTYPES)
  _one_of('loss.kd', config.loss.kd, KD_READINGS)
  _one_of('train.exemplar_resample', train.exemplar_resample, RESAMPLES)
  _one_of('train.cache_features', train.cache_features, CACHES)
  _one_of('parallel.axis', config.parallel.axis, AXES)
  _one_of('anomaly_map.combine', config.anomaly_map.combine, COMBINES)
  for field, value in (('model.stages', model.stages), ('model.memories', model.memories)):
    known = all(type(k) is int and k in (1, 2, 3) for k in value)
    _require(field, value, known, 'holds only 1, 2 and 3')
  _require('model.stages', model.stages, len(model.stages) > 0, 'names at least one stage')
  size = config.data.image_size
  _require('data.image_size', size, size > 0 and size % 32 == 0, 'is a multiple of 32 pixels')
  for section, names in {
    'data': ('threads',),
    'eval': ('batch_size',),
    'model': ('memory_items', 'temperature'),
    'train': (
      'epochs',
      'batch_size',
      'learning_rate',
      'exemplars',
      'checkpoint_steps',
      'log_steps',
    ),
  }.items():
    for name in names:
      value = config[section][name]
      _require(f'{section}.{name}', value, 0 < value < math.inf, 'is positive and finite')
  for section, name in (
    ('loss', 'lambda_nm'),
    ('loss', 'lambda_orth'),
    ('anomaly_map', 'sigma'),
  ):
    value = config[section][name]
    _require(f'{section}.{name}', value, 0 <= value < math.inf, 'is finite and not negative')
  for name in ('adam_b1', 'adam_b2'):
    _require(f'train.{name}', train[name], 0 <= train[name] < 1, 'lies in [0, 1)')
  _require('train.holdout', train.holdout, 0 <= train.holdout <= 0.5, 'lies in [0, 0.5]')
  for field, largest in UPPER_BOUNDS.items():
    section, name = field.split('.')
    value = config[section][name]
    _require(field, value, value <= largest, f'is at most {largest:,}')
  warm = model.temperature >= _SMALLEST_TEMPERATURE
  _require('model.temperature', model.temperature, warm, f'is at least {_SMALLEST_TEMPERATURE}')
  for field, seeds in (('seed', (config.seed,)), ('seeds', config.seeds)):
    whole = all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in seeds)
    _require(field, config[field], whole, 'is whole, not negative, and below 2**63')


def _check_fields(config: ConfigDict) -> None:
  """Raises UserError where a field is missing or has another type than by default."""
  default = get_config()
  for section in ('', *(name for name, value in default.items() if _is_section(value))):
    expected, found = (c[section] if section else c for c in (default, config))
    for name, value in expected.items():
      field = f'{section}.{name}' if section else name
      if name not in found:
        raise UserError(f'--config.{section}: it has no {name}; give single fields of it.')
      fits = type(found[name]) is type(value)
      fits |= type(value) is float and type(found[name]) is int
      _require(field, found[name], fits, f'is of the type {type(value).__name__}')
      if isinstance(value, str):
        _require(field, found[name], found[name].isprintable(), 'can be printed')


def _is_section(value: object) -> bool:
  return isinstance(value, ConfigDict)


def _one_of(field: str, value: str, known: Collection[str]) -> None:
  _require(field, value, value in known, f'is one of {", ".join(known)}')


def _require(field: str, value: object, holds: bool, what: str) -> None:
  if not holds:
    raise UserError(f'--config.{field}={_show(value)}: give a value that {what}.')


def _show(value: object) -> str:
  try:
    text = str(value)
  except ValueError:  # Python prints no whole number of more than 4300 digits
    return '...'
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
