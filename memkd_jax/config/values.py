"""Configs made of fields: their defaults, and what follows from the values that are given."""

import difflib
import functools
import math
import os
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from memkd_jax.config.field import (
  Field,
  absolute,
  check_type,
  check_value,
  get_value,
  require,
  set_value,
)
from memkd_jax.config.fields import (
  ALPHA_ROI,
  AUTO_BACKBONE,
  AUTO_DTYPE,
  AUTO_TEACHER,
  DEFAULT_DTYPE,
  DEMO_TEACHER,
  DEMO_TEACHER_FILE,
  FIELDS,
  RANDOM_TEACHER,
  VALIDATION,
)
from memkd_jax.errors import UserError

_LARGEST_SEED = 2**63 - 1
_WIDTH = 96  # columns of `describe`


def build(fields: Iterable[Field]) -> ConfigDict:
  """A config with every field at its default."""
  config = ConfigDict()
  for field in fields:
    section, _, _ = field.name.rpartition('.')
    if section and section not in config:
      config[section] = ConfigDict()
    # Of a value that may have several types the config must not remember the first one's.
    free = FieldReference(field.default, field_type=object) if field.also else field.default
    set_value(config, field.name, free)
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
    fields: the fields by which values are checked.

  Returns:
    A copy with absolute paths (but for 'auto', which may mean a download), with values of the
    last release replaced, and with at least one of `seeds`, which alone are read from then on.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  fields = tuple(fields)
  for field in fields:
    check_type(config, field)
  config = config.copy_and_resolve_references()
  _replace_old(config, fields)
  if config.model.backbone == AUTO_BACKBONE:
    config.model.backbone = choose_backbone()
  if config.model.dtype == AUTO_DTYPE:
    config.model.dtype, _ = choose_dtype()
  if config.model.dtype == DEFAULT_DTYPE:
    config.model.dtype = default_dtype()
  _resolve_sizes(config)
  config.data.inputs = _names(config.data.inputs)
  config.train.trackers = _names(config.train.trackers)
  for name, seeds in (('seed', (config.seed,)), ('seeds', config.seeds)):
    whole = all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in seeds)
    require(name, config[name], whole, 'is whole, not negative, and below 2**63')
  for field in fields:
    check_value(field, get_value(config, field.name))
  maps, train = config.anomaly_map, config.train
  if maps.combine == 'product':  # of two maps below their means it would be high
    what = 'is none, or choose --config.anomaly_map.combine=sum'
    require('anomaly_map.normalize', maps.normalize, maps.normalize == 'none', what)
  if train.scope == 'joint':
    what = 'is batch where one model learns from all categories'
    require('parallel.axis', config.parallel.axis, config.parallel.axis == 'batch', what)
  none_held_out = train.holdout == 0 and train.calibration not in ('folds', VALIDATION)
  if maps.normalize != 'none' and none_held_out:
    raise UserError(
      f'--config.anomaly_map.normalize={maps.normalize}: maps are normalised by normal images '
      'that are held out, and there are none; train with --config.train.holdout=0.1, in '
      'another --workdir if there is a model in this one.'
    )
  _resolve_inputs(config)
  if config.data.roi not in ('', ALPHA_ROI):
    config.data.roi = absolute('data.roi', config.data.roi)
  if config.data.scratch:
    config.data.scratch = absolute('data.scratch', config.data.scratch)
  if '://' not in config.data.dir:  # of a bucket
    config.data.dir = absolute('data.dir', config.data.dir)
  config.seeds = tuple(dict.fromkeys(config.seeds or (config.seed,)))
  if config.model.teacher_weights == DEMO_TEACHER:
    config.model.teacher_weights = str(DEMO_TEACHER_FILE.absolute())
  elif config.model.teacher_weights not in (AUTO_TEACHER, RANDOM_TEACHER):
    path = config.model.teacher_weights.replace('{backbone}', config.model.backbone)
    config.model.teacher_weights = absolute('model.teacher_weights', path)
  return config


def _names(value: tuple[Any, ...]) -> tuple[str, ...]:
  """The names of a tuple, of which --config.data.inputs=rgb,depth makes one text."""
  names = ','.join(map(str, value)).split(',')
  return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _resolve_sizes(config: ConfigDict) -> None:
  """Checks sizes and tiles, and makes one number of two equal ones."""
  data = config.data
  with data.ignore_type():
    for name in ('image_size', 'tile_size'):
      sides = (data[name],) if type(data[name]) is int else tuple(data[name])
      data[name] = sides[0] if len(set(sides)) == 1 and len(sides) < 3 else sides
  size = data.image_size
  what = 'is a multiple of 32 pixels, or two of them: height,width'
  require('data.image_size', size, _are_sides(size, 32), what)
  if data.tile_size != 0:
    what = 'is a number of pixels, or two: height,width'
    require('data.tile_size', data.tile_size, _are_sides(data.tile_size, 1), what)
  tiles = data.tiles
  counted = len(tiles) in (0, 2) and all(type(n) is int and n > 0 for n in tiles)
  require('data.tiles', tiles, counted, 'is two numbers: rows,columns')
  if tuple(tiles) == (1, 1):
    data.tiles = ()
  if data.tile_models == 'position':
    _check_places(data)
  if data.tile_size == 0 and not data.tiles:
    return
  alone = data.tile_size == 0 or not data.tiles
  require('data.tile_size', data.tile_size, alone, 'is 0, or leave data.tiles out')
  normalize = config.anomaly_map.normalize  # by images that tiles are parts of
  what = 'is none where images are cut into tiles'
  require('anomaly_map.normalize', normalize, normalize == 'none', what)


def _resolve_inputs(config: ConfigDict) -> None:
  """Checks which pictures of an object are looked at."""
  data, inputs = config.data, config.data.inputs
  known = next(field.choices for field in FIELDS if field.name == 'data.inputs')
  data.inputs = tuple(name for name in known if name in inputs)
  require('data.inputs', inputs, bool(inputs), f'holds some of {", ".join(map(str, known))}')
  found = data.depth_range
  if found != 'auto':
    what = 'is auto, or two numbers, the lower one first: low,high'
    numbers = type(found) is tuple and all(type(x) in (int, float) for x in found)
    rising = numbers and len(found) == 2 and -math.inf < found[0] < found[1] < math.inf
    require('data.depth_range', found, rising, what)
  if data.inputs == ('rgb',):
    return
  what = (
    'is rgb for what memkd prepare-tfds made; or name files with --config.data.source=folder'
  )
  require('data.inputs', data.inputs, data.source == 'folder', what)
  what = 'is rgb where alpha says what counts, or leave --config.data.roi out'
  require('data.inputs', data.inputs, data.roi != ALPHA_ROI, what)
  combine = config.anomaly_map.combine  # of maps below their means a product would be high
  several = len(data.inputs) > 1
  require('anomaly_map.combine', combine, not several or combine != 'product', 'is sum or max')


def _check_places(data: ConfigDict) -> None:
  """Raises UserError where a place of the grid is not the same part of every image."""
  problem = ''
  if data.tile_size != 0:
    problem = 'with data.tile_size larger images have more tiles; give data.tiles in its place'
  elif not data.tiles:
    problem = 'images are not cut; give --config.data.tiles=ROWS,COLUMNS'
  elif data.resize != 'stretch':
    problem = (
      f'with data.resize={data.resize} a place shows now this part and now that; stretch'
    )
  elif data.roi == ALPHA_ROI:
    problem = (
      'with data.roi=alpha a place may show nothing of some images; name one FILE for all'
    )
  if problem:
    raise UserError(
      f'--config.data.tile_models=position: {problem}, or leave --config.data.tile_models out.'
    )


def _are_sides(value: Any, multiple: int) -> bool:
  """Whether a value is one positive multiple, or two."""
  sides = (value,) if type(value) is int else value
  whole = all(type(n) is int and n > 0 and n % multiple == 0 for n in sides)
  return whole and len(sides) in (1, 2)


def choose_backbone() -> str:
  """The teacher that a device can train beside in minutes."""
  from memkd_jax.runtime.devices import backend  # imports jax, which --help does without

  return 'resnet18' if backend() == 'cpu' else 'wide_resnet50_2'


def choose_dtype() -> tuple[str, str]:
  """What `model.dtype=auto` is on the devices that there are, and why."""
  from memkd_jax.config import dtype  # imports jax, which --help does without
  from memkd_jax.runtime.devices import backend

  backend()
  return dtype.choose()


def default_dtype() -> str:
  """What `model.dtype=default` is on the devices that there are."""
  from memkd_jax.runtime.devices import backend  # imports jax, which --help does without

  return 'bfloat16' if backend() == 'tpu' else 'float32'


def resumable(fields: Iterable[Field]) -> set[str]:
  """Names of the fields with another value of which a run may go on."""
  return {field.name for field in fields if field.resumable}


def scoring(fields: Iterable[Field]) -> set[str]:
  """Names of the fields that change figures, but not what is trained."""
  return {field.name for field in fields if field.scoring}


def of_older(fields: Iterable[Field]) -> dict[str, Any]:
  """The values of a run that is older than the fields, by their names."""
  return {f.name: f.default if f.before is None else f.before for f in fields}


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'section.field': value} of a config as JSON holds it."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def by_short_names(fields: Iterable[Field], values: Mapping[str, Any]) -> dict[str, Any]:
  """Names of fields as Python's keyword arguments can have them, made whole.

  Args:
    fields: all fields that there are.
    values: the values by `section__field`, or by `field` where one section alone has it.

  Returns:
    {'section.field': value}.

  Raises:
    UserError: there is no such field, or there are several.
  """
  known = [field.name for field in fields if field.help]
  whole = {}
  for name, value in values.items():
    wanted = name.replace('__', '.')
    found = [wanted] if wanted in known else [n for n in known if n.endswith(f'.{wanted}')]
    if len(found) != 1:
      close = difflib.get_close_matches(wanted, [n.rpartition('.')[2] for n in known], n=1)
      several = ' and '.join(n.replace('.', '__') for n in found)
      remedy = f'did you mean {close[0]}?' if close else 'memkd train --help lists them all.'
      raise UserError(
        f'{name} may be {several}; give one of these names.'
        if found
        else f'there is no field {name}; {remedy}'
      )
    whole[found[0]] = value
  return whole


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


def _replace_old(config: ConfigDict, fields: tuple[Field, ...]) -> None:
  """Replaces values of the last release, with a note on each."""
  for field in fields:
    found = get_value(config, field.name)
    for old, name, value in field.replaced:
      if found == old:
        set_value(config, field.name, field.default)
        set_value(config, name, value)
        shown = ','.join(value) if isinstance(value, tuple) else value
        _note(
          f'--config.{field.name}={old} is --config.{name}={shown} now; the next release knows '
          'only that.'
        )


@functools.cache
def _note(text: str) -> None:
  print(f'Note: {text}', flush=True)
