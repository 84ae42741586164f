"""Every field that all methods have, and what the values of a field may be.

A method adds fields of its own: `methods.get_config` gives the config of a run, and
`methods.resolve` checks it. The files of configs/ start from there.
"""

import dataclasses
import functools
import math
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.errors import UserError

AUTO_TEACHER = 'auto'  # found, or downloaded, where a run begins
RANDOM_TEACHER = 'random'
DEMO_TEACHER = 'demo'  # a resnet18 that the package brings
DEMO_TEACHER_FILE = Path(__file__).with_name('teachers') / 'demo_teacher.safetensors'
DTYPES = ('float32', 'bfloat16', 'float64')
BACKBONES = ('resnet18', 'resnet34', 'resnet50', 'wide_resnet50_2')
AUTO_BACKBONE = 'auto'
TINY_BACKBONES = ('tiny_basic', 'tiny_bottleneck')  # for tests; nobody has weights of them

_LARGEST_SEED = 2**63 - 1
_SHOWN = 200  # characters of a value in an error
_WIDTH = 96  # columns of `describe`


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of a config: its default, and what else it may be.

  Attributes:
    name: 'section.field', or 'field' where it stands in no section.
    default: the value where none is given; every other value has its type.
    help: what the field means, with its unit, and without a full stop. A field without
      help was renamed: it is listed nowhere, and goes with the next release.
    choices: the values that a text may have, or the items of a tuple; any where empty.
    unlisted: further choices, which no message names.
    low: the smallest number allowed, not negative.
    high: the largest number allowed; a number without it is not checked.
    open_low: whether the number must be larger than `low`.
    open_high: whether the number must be smaller than `high`.
    resumable: whether a run may go on with another value: the field changes neither a
      trained parameter nor a figure.
    scoring: whether the field changes figures, but not what is trained.
    replaced: (value, field, value) triples: a value of the last release, and which field
      has which value in its place.
  """

  name: str
  default: Any
  help: str
  _: dataclasses.KW_ONLY
  choices: tuple[str, ...] | tuple[int, ...] = ()
  unlisted: tuple[str, ...] = ()
  low: float = 0
  high: float | None = None
  open_low: bool = False
  open_high: bool = False
  resumable: bool = False
  scoring: bool = False
  replaced: tuple[tuple[str, str, str], ...] = ()


# A number larger than `high` is a mistake: it would take all memory before anything could
# be said. The teacher's weights are resumable since their content counts, not their path.
FIELDS = (
  Field('seed', 0, 'Seed of all random numbers of a run', resumable=True),
  Field(
    'seeds',
    (),
    'Several seeds, in place of seed: a model is trained with each, and figures are means '
    'over them',
    resumable=True,
  ),
  Field('method.name', 'memkd', 'The method, chosen with the config: --config=FILE.py:METHOD'),
  Field(
    'sweep.variants', (), 'The variants of an ablation: ((name, ((field, value), ...)), ...)'
  ),
  Field('sweep.paper', '', "The paper's table to print beside an ablation, if any"),
  Field(
    'data.dataset',
    'mvtec_ad',
    'The data set, which says how its files are laid out',
    choices=(
      'mvtec_ad',
      'visa',
      'mpdd',
      'mvtec_3d',
      'eyecandies',
      'folder',
      'images',
      'demo',
    ),
  ),
  Field(
    'data.source',
    'folder',
    'Where images come from: the files as published, or what memkd prepare-tfds made of them',
    choices=('folder', 'tfds'),
    resumable=True,
  ),
  Field(
    'data.dir',
    '~/datasets/mvtec_ad',
    'Folder of the data set, by default its name under $MEMKD_DATA or ~/datasets; of the '
    'source tfds any path that TFDS opens',
    resumable=True,
  ),
  Field(
    'data.train_dir',
    'auto',
    "With data.dataset=folder: a category's folder of training images; auto takes train or "
    'training',
    resumable=True,
  ),
  Field(
    'data.test_dir',
    'auto',
    "With data.dataset=folder: a category's folder of test images; auto takes test or testing",
    resumable=True,
  ),
  Field(
    'data.normal_dir',
    'auto',
    'With data.dataset=folder: folder of normal images among those of a split; auto takes '
    'good, ok, normal or nominal',
    resumable=True,
  ),
  Field(
    'data.mask_dir',
    'auto',
    "With data.dataset=folder: a category's folder of masks; auto takes ground_truth, gt, mask "
    'or masks',
    resumable=True,
  ),
  Field(
    'data.categories',
    'all',
    "Names of categories separated by commas, or 'all'",
    resumable=True,
  ),
  Field(
    'data.image_size',
    256,
    'Side of the square that the model sees, in pixels; a multiple of 32',
    high=8192,
    open_low=True,
  ),
  Field(
    'data.threads',
    8,
    'Number of threads that decode images',
    high=256,
    open_low=True,
    resumable=True,
  ),
  Field(
    'data.bit_depth',
    'auto',
    'How many bits of a file of 16 bits per channel the camera fills; auto takes the fewest of '
    '10, 12, 14 and 16 that hold all values of the training images',
    choices=('auto', '8', '10', '12', '14', '16'),
  ),
  Field(
    'model.backbone',
    'wide_resnet50_2',
    'Architecture of the teacher; auto takes resnet18 on a CPU, and wide_resnet50_2, that of '
    'the paper, on an accelerator',
    choices=('auto', *BACKBONES),
    unlisted=TINY_BACKBONES,
  ),
  Field(
    'model.teacher_weights',
    'auto',
    "The teacher: a file of memkd weights; or 'auto' for weights/{backbone}.safetensors where "
    'that is there, and else its ImageNet weights, which the first run downloads to '
    "~/.cache/memkd_jax/teachers; or 'demo' for the resnet18 that the package brings, or "
    "'random' for tests",
    resumable=True,
  ),
  Field(
    'model.dtype',
    'float32',
    'Type of all numbers in the model; float64 needs JAX_ENABLE_X64=1 in the environment',
    choices=DTYPES,
  ),
  Field(
    'train.holdout',
    0.0,
    'Share of the normal images that is kept out of the training, to set a threshold with',
    high=0.5,
  ),
  Field(
    'train.calibration',
    'holdout',
    'Where the threshold comes from: the images that train.holdout keeps out; train.folds '
    'further models, each of which scores the images that it has not learned from, while the '
    'model itself learns from all of them; or the first of these that has enough images',
    choices=('holdout', 'folds', 'auto'),
  ),
  Field(
    'train.folds',
    4,
    'Number of further models that train.calibration=folds trains for the threshold',
    low=2,
    high=20,
  ),
  Field(
    'parallel.axis',
    'batch',
    'What several devices share out: the images of every batch, or the categories, with as '
    'many models in training as there are devices',
    choices=('batch', 'category'),
    resumable=True,
  ),
  Field(
    'anomaly_map.combine',
    'sum',
    "How the stages' maps become one",
    choices=('sum', 'product'),
    scoring=True,
  ),
  Field(
    'anomaly_map.align_corners',
    True,
    "Whether corners stay in place when maps are enlarged, as in RD's code",
    scoring=True,
  ),
  Field(
    'anomaly_map.sigma',
    4.0,
    'Standard deviation of the Gaussian that smooths a map, in pixels of data.image_size',
    high=1024,
    scoring=True,
  ),
  Field(
    'eval.batch_size',
    16,
    'Number of images that are scored at once, on all devices together',
    high=2**16,
    open_low=True,
    resumable=True,
    scoring=True,
  ),
  Field(
    'eval.resolution',
    'model',
    "The size at which pixels are scored: data.image_size, or the original image's",
    choices=('model', 'original'),
    scoring=True,
  ),
  Field(
    'eval.preset',
    '',
    '',
    scoring=True,
    replaced=(
      ('rd4ad', 'eval.resolution', 'model'),
      ('original', 'eval.resolution', 'original'),
    ),
  ),
)


def build(fields: Iterable[Field]) -> ConfigDict:
  """A config with every field at its default."""
  config = ConfigDict()
  for field in fields:
    section, _, _ = field.name.rpartition('.')
    if section and section not in config:
      config[section] = ConfigDict()
    _set(config, field.name, field.default)
  return config


def get_config(dataset: str, fields: Iterable[Field]) -> ConfigDict:
  """The defaults for a data set, which lies where `data_dir` says."""
  config = build(fields)
  config.data.dataset = dataset
  config.data.dir = data_dir(dataset)
  return config


def data_dir(name: str) -> str:
  """Where a data set lies by default: under $MEMKD_DATA or ~/datasets."""
  return os.path.join(os.environ.get('MEMKD_DATA', '~/datasets'), name)


def resolve(config: ConfigDict, fields: Iterable[Field]) -> ConfigDict:
  """Checks every field by itself, and fills in what follows from others.

  Args:
    config: a config with the values of `fields`; others in it are left alone.
    fields: what its values are checked by.

  Returns:
    A copy with absolute paths (but for 'auto', which may mean a download), with values of the last release replaced, and with at
    least one of `seeds`, which alone are read from then on.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  fields = tuple(fields)
  for field in fields:
    _check_type(config, field)
  config = config.copy_and_resolve_references()
  _replace_old(config, fields)
  if config.model.backbone == AUTO_BACKBONE:
    config.model.backbone = choose_backbone()
  size = config.data.image_size
  require('data.image_size', size, size > 0 and size % 32 == 0, 'is a multiple of 32 pixels')
  for name, seeds in (('seed', (config.seed,)), ('seeds', config.seeds)):
    whole = all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in seeds)
    require(name, config[name], whole, 'is whole, not negative, and below 2**63')
  for field in fields:
    _check_value(field, _get(config, field.name))
  if '://' not in config.data.dir:  # of a bucket
    config.data.dir = _absolute('data.dir', config.data.dir)
  config.seeds = tuple(dict.fromkeys(config.seeds or (config.seed,)))
  if config.model.teacher_weights == DEMO_TEACHER:
    config.model.teacher_weights = str(DEMO_TEACHER_FILE.absolute())
  elif config.model.teacher_weights not in (AUTO_TEACHER, RANDOM_TEACHER):
    path = config.model.teacher_weights.replace('{backbone}', config.model.backbone)
    config.model.teacher_weights = _absolute('model.teacher_weights', path)
  return config


def choose_backbone() -> str:
  """The teacher that a device can train beside in minutes."""
  from memkd_jax.runtime.devices import backend  # imports jax, which --help does without

  return 'resnet18' if backend() == 'cpu' else 'wide_resnet50_2'


def resumable(fields: Iterable[Field]) -> set[str]:
  """Names of the fields with another value of which a run may go on."""
  return {field.name for field in fields if field.resumable}


def scoring(fields: Iterable[Field]) -> set[str]:
  """Names of the fields that change figures, but not what is trained."""
  return {field.name for field in fields if field.scoring}


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'section.field': value} of a config as JSON holds it."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def describe(fields: Iterable[Field]) -> str:
  """Every field with its default, its meaning and its choices, by section, for --help."""
  shown = [field for field in fields if field.help]
  sections = [field.name.rpartition('.')[0] for field in shown]
  lines = []
  for field in sorted(shown, key=lambda f: sections.index(f.name.rpartition('.')[0])):
    text = f'{field.help}.'
    if field.choices:
      kind = 'Any of' if isinstance(field.default, tuple) else 'One of'
      text += f' {kind} {", ".join(map(str, field.choices))}.'
    lines.append(f'  --config.{field.name}={field.default}')
    lines += textwrap.wrap(text, _WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
  return '\n'.join(lines)


def require(name: str, value: object, holds: bool, what: str) -> None:
  """Raises UserError, '--config.NAME=VALUE: give a value that ...', unless it `holds`."""
  if not holds:
    raise UserError(f'--config.{name}={_show(value)}: give a value that {what}.')


def _section(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
  """Where a field stands, and its name there."""
  section, _, field = name.rpartition('.')
  return (config[section] if section else config), field


def _get(config: ConfigDict, name: str) -> Any:
  section, field = _section(config, name)
  return section[field]


def _set(config: ConfigDict, name: str, value: Any) -> None:
  section, field = _section(config, name)
  section[field] = value


def _replace_old(config: ConfigDict, fields: tuple[Field, ...]) -> None:
  """Replaces values of the last release, with a note on each."""
  for field in fields:
    found = _get(config, field.name)
    for old, name, value in field.replaced:
      if found == old:
        _set(config, field.name, field.default)
        _set(config, name, value)
        _note(
          f'--config.{field.name}={old} is --config.{name}={value} now; the next release knows '
          'only that.'
        )


@functools.cache
def _note(text: str) -> None:
  print(f'Note: {text}', flush=True)


def _check_type(config: ConfigDict, field: Field) -> None:
  """Raises UserError where a field is missing or has another type than by default."""
  section, name = _section(config, field.name)
  if name not in section:
    outer = field.name.rpartition('.')[0]
    raise UserError(f'--config.{outer}: it has no {name}; give single fields of it.')
  value, kind = section[name], type(field.default)
  fits = type(value) is kind or (kind is float and type(value) is int)
  require(field.name, value, fits, f'is of the type {kind.__name__}')
  if isinstance(value, str):
    require(field.name, value, value.isprintable(), 'can be printed')


def _check_value(field: Field, value: Any) -> None:
  if not field.help:
    names = ', '.join(old for old, _, _ in field.replaced)
    require(field.name, value, value == field.default, f'is one of {names}')
  elif field.choices and isinstance(value, tuple):
    known = all(type(v) is type(field.choices[0]) and v in field.choices for v in value)
    *most, last = map(str, field.choices)
    require(field.name, value, known, f'holds only {", ".join(most)} and {last}')
  elif field.choices:
    known = value in field.choices or value in field.unlisted
    require(field.name, value, known, f'is one of {", ".join(map(str, field.choices))}')
  elif field.high is not None:
    _check_number(field, value, field.high)


def _check_number(field: Field, value: float, high: float) -> None:
  above = field.low < value if field.open_low else field.low <= value
  below = value < high if field.open_high else value <= high
  if high <= 1:  # a share: its interval says more than the bound that it breaks
    interval = f'{"[("[field.open_low]}{field.low}, {high}{"])"[field.open_high]}'
    require(field.name, value, above and below, f'lies in {interval}')
    return
  if field.low > 0 or field.open_low:
    require(field.name, value, 0 < value < math.inf, 'is positive and finite')
  else:
    require(field.name, value, 0 <= value < math.inf, 'is finite and not negative')
  require(field.name, value, below, f'is at most {high:,}')
  require(field.name, value, above, f'is at least {field.low}')


def _absolute(field: str, path: str) -> str:
  try:
    return str(Path(path).expanduser().absolute())
  except (RuntimeError, ValueError) as error:  # ~ of a user who does not exist, a NUL
    raise UserError(f'--config.{field}={_show(path)}: {error}') from error


def _show(value: object) -> str:
  try:
    text = str(value)
  except ValueError:  # Python prints no whole number of more than 4300 digits
    return '...'
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
