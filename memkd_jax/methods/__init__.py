"""How a family of detectors learns what is normal: a table of names.

A method is a module here with `FIELDS`, its fields beside `config.FIELDS`, and
`create(config, extractor, devices)`. It may have `configure(config, name)`, which sets what
a name stands for, and `resolve(config)`, which checks what no field can check by itself.
"""

import dataclasses
import importlib
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from memkd_jax import config as shared
from memkd_jax.errors import UserError

METHODS = {
  'memkd': 'distillation_config',
  'rd': 'distillation_config',
  'memmkd': 'distillation_config',
  'mkd': 'distillation_config',
  'knn': 'knn',
  'patchcore': 'patchcore',
  'padim': 'padim',
  'spade': 'spade',
  'cfa': 'cfa',
  'students': 'students',
  'ensemble': 'ensemble',
}


def fields(method: str) -> tuple[shared.Field, ...]:
  """All fields of a method's config, with the defaults that its name stands for.

  Raises:
    UserError: there is no such method.
  """
  module = _module(method)
  table = (*shared.FIELDS, *module.FIELDS)
  config = shared.build(table)
  config.method.name = method
  if configure := getattr(module, 'configure', None):
    configure(config, method)
  defaults = shared.flatten(config.to_dict())
  return tuple(
    dataclasses.replace(
      field,
      default=defaults[field.name],
      choices=tuple(METHODS) if field.name == 'method.name' else field.choices,
    )
    for field in table
  )


def own_fields() -> list[tuple[tuple[str, ...], tuple[shared.Field, ...]]]:
  """What other methods have beside the fields of MemKD.

  Returns:
    (names, fields) of each family that has any, in the order of `METHODS`.
  """
  common = fields('memkd')
  families: dict[str, list[str]] = {}
  for name, module in METHODS.items():
    families.setdefault(module, []).append(name)
  found = []
  for names in families.values():
    own = [f for f in fields(names[0]) if f not in common and f.name != 'method.name']
    if own:
      found.append((tuple(names), tuple(own)))
  return found


def get_config(dataset: str = 'mvtec_ad', method: str = 'memkd') -> ConfigDict:
  """The config of a run, with the values of the paper where it gives any.

  Args:
    dataset: a choice of data.dataset.
    method: a key of `METHODS`.

  Raises:
    UserError: there is no such method.
  """
  return shared.get_config(dataset, fields(method))


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks every field, and fills in what depends on others.

  Args:
    config: the config, as `get_config` gives it, perhaps with other values.

  Returns:
    A copy, see `config.resolve`; to resolve it again changes nothing.

  Raises:
    UserError: a field has a value that it cannot have.
  """
  name = config.method.get('name')
  module, table = _module(name), fields(name)
  if not any(_has(config, field.name) for field in module.FIELDS):
    raise UserError(
      f'--config.method.name={name}: this is the config of another method; choose the method '
      f'with the file, as in --config=configs/mvtec.py:{name}.'
    )
  config = shared.resolve(config, table)
  check = getattr(module, 'resolve', None)
  return check(config) if check else config


def create(config: ConfigDict, extractor: Any, devices: Any) -> Any:
  """Builds the method of a resolved config.

  Args:
    config: the config, as `resolve` returns it.
    extractor: the frozen teacher, a `teachers.extractor.FeatureExtractor`.
    devices: the `runtime.devices.Devices` that it runs on.

  Returns:
    A `methods.base.Method`; where several pictures are looked at, what makes their maps one.
  """
  method = _module(config.method.name).create(config, extractor, devices)
  inputs = tuple(config.data.get('inputs', ('rgb',)))
  if len(inputs) == 1:
    return method
  from memkd_jax.methods.fused import Fused, OneStudent

  kind = OneStudent if config.model.get('joint_bottleneck') else Fused
  return kind(config, method, inputs, extractor, devices)


def _module(method: Any) -> ModuleType:
  known = isinstance(method, str) and method in METHODS
  shared.require('method.name', method, known, f'is one of {", ".join(METHODS)}')
  return importlib.import_module(f'{__name__}.{METHODS[method]}')


def _has(config: ConfigDict, field: str) -> bool:
  section, _, name = field.rpartition('.')
  return section in config and name in config[section]
