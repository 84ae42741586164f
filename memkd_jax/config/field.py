"""What a field of a config is, and what its values may be."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from memkd_jax.errors import UserError

_SHOWN = 200  # characters of a value in an error


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of a config: its default, and what else it may be.

  Attributes:
    name: 'section.field', or 'field' where it stands in no section.
    default: the value where none is given; every other value has its type, or one of `also`.
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
    also: further types that a value may have.
    before: the value that runs had which are older than the field; None for its default.
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
  replaced: tuple[tuple[Any, str, Any], ...] = ()
  also: tuple[type, ...] = ()
  before: Any = None


def require(name: str, value: object, holds: bool, what: str) -> None:
  """Raises UserError, '--config.NAME=VALUE: give a value that ...', unless it `holds`."""
  if not holds:
    raise UserError(f'--config.{name}={_show(value)}: give a value that {what}.')


def section_of(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
  """Where a field stands, and its name there."""
  section, _, field = name.rpartition('.')
  return (config[section] if section else config), field


def get_value(config: ConfigDict, name: str) -> Any:
  """The value of the field 'section.field'."""
  section, field = section_of(config, name)
  return section[field]


def set_value(config: ConfigDict, name: str, value: Any) -> None:
  """Sets the field 'section.field'."""
  section, field = section_of(config, name)
  section[field] = value


def check_type(config: ConfigDict, field: Field) -> None:
  """Raises UserError where a field is missing or has another type than by default."""
  section, name = section_of(config, field.name)
  if name not in section:
    outer = field.name.rpartition('.')[0]
    raise UserError(f'--config.{outer}: it has no {name}; give single fields of it.')
  value, kind = section[name], type(field.default)
  fits = type(value) in (kind, *field.also) or (kind is float and type(value) is int)
  names = ' or '.join(known.__name__ for known in (kind, *field.also))
  require(field.name, value, fits, f'is of the type {names}')
  if isinstance(value, str):
    require(field.name, value, value.isprintable(), 'can be printed')


def check_value(field: Field, value: Any) -> None:
  """Raises UserError where a value is none that its field may have."""
  if not field.help:
    names = ', '.join(str(old) for old, _, _ in field.replaced)
    require(field.name, value, value == field.default, f'is one of {names}')
  elif field.choices and isinstance(value, tuple):
    known = all(type(v) is type(field.choices[0]) and v in field.choices for v in value)
    *most, last = map(str, field.choices)
    require(field.name, value, known, f'holds only {", ".join(most)} and {last}')
  elif field.choices:
    known = value in field.choices or value in field.unlisted
    require(field.name, value, known, f'is one of {", ".join(map(str, field.choices))}')
  elif field.high is not None:
    for number in value if isinstance(value, tuple) else (value,):
      _check_number(field, number, field.high)


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


def absolute(field: str, path: str) -> str:
  """The absolute path that a field's value stands for; raises UserError where it is none."""
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
