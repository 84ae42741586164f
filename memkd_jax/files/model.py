"""A trained model as two files: model.safetensors holds arrays, model.json what they mean.

model.json is written last, so a model is there when that is. Both carry a digest.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import DIGEST, digest, tree_digest
from memkd_jax.files.reading import open_regular, read_json

FORMAT = 1
TENSORS, FACTS = 'model.safetensors', 'model.json'
_TENSORS_DIGEST = 'tensors_sha256'


def exists(folder: Path) -> bool:
  """Whether `folder` holds a model that was written to its end."""
  return (folder / FACTS).is_file()


def write(
  folder: Path,
  params: Mapping[str, Any],
  facts: Mapping[str, Any],
  others: Iterable[Path] = (),
) -> None:
  """Writes a model; one that is there is replaced.

  Args:
    folder: the model's folder, which is made if it is missing.
    params: what the method has learned, nested dicts of numpy arrays.
    facts: JSON values by name, what model.json holds.
    others: folders, beside `folder` itself, of models that may hold the same arrays. Where one
      does, its file gets a further name in place of a copy; no file is ever written to again,
      only replaced.

  Raises:
    OSError: it cannot be written.
  """
  tensors = {
    name: np.ascontiguousarray(array) for name, array in flatten_dict(params, sep='/').items()
  }
  found = tree_digest(tensors)
  with atomic.atomic_write(folder / TENSORS) as temporary:
    if not any(_link(other, found, temporary) for other in (folder, *others)):
      save_file(tensors, temporary)
  write_facts(folder, dict(facts) | {_TENSORS_DIGEST: found})


def _link(other: Path, wanted: str, path: Path) -> bool:
  """Makes a path a name of another model's arrays, if they are the wanted ones."""
  try:
    facts = read_facts(other)
    if tensors_digest(facts) != wanted:
      return False
    parse_params(read_bytes(other), facts)  # which may be damaged
    path.unlink()
    os.link(other / TENSORS, path)
  except (OSError, ValueError, UserError):  # or the file system knows no further names
    return False
  return True


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
  """Writes model.json alone, beside arrays that stay.

  Args:
    folder: the folder that holds the model's two files.
    facts: JSON values, with all that `read_facts` gave but what is to change.
  """
  content = {'format': FORMAT} | {k: v for k, v in facts.items() if k != DIGEST}
  atomic.write_json(folder / FACTS, content | {DIGEST: digest(content)})


def read_facts(folder: Path) -> dict[str, Any]:
  """Reads model.json.

  Raises:
    OSError: it is missing or cannot be read.
    ValueError: it is damaged.
    UserError: it is of a later format.
  """
  facts: Any = read_json(folder / FACTS)
  if not isinstance(facts, dict):
    raise ValueError('it is no JSON object')
  if facts.get(DIGEST) != digest(facts):
    raise ValueError('its checksum is wrong')
  if facts.get('format') != FORMAT:
    raise UserError(
      f'{folder / FACTS} is of format {json.dumps(facts.get("format"))}, and this release '
      f'reads {FORMAT}; use the release of memkd_jax that wrote it.'
    )
  return {name: value for name, value in facts.items() if name != DIGEST}


def read_bytes(folder: Path) -> bytes:
  """The content of model.safetensors; raises OSError where there is none."""
  with open_regular(folder / TENSORS) as file:
    return file.read()


def sections(folder: Path) -> set[str]:
  """The highest names of the arrays of model.safetensors, without reading these.

  Raises:
    OSError: it is missing or cannot be read.
    ValueError: it is damaged.
  """
  with open_regular(folder / TENSORS):  # refuses what is no regular file
    pass
  try:
    with safe_open(folder / TENSORS, 'numpy') as file:
      return {name.partition('/')[0] for name in file.keys()}  # noqa: SIM118
  except SafetensorError as error:
    raise ValueError(str(error)) from error


def tensors_digest(facts: Mapping[str, Any]) -> str:
  """The digest of the arrays that belong to `read_facts`."""
  return str(facts.get(_TENSORS_DIGEST))


def parse_params(content: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of a model.

  Args:
    content: the content of model.safetensors, as `read_bytes` gives it.
    facts: the content of model.json, as `read_facts` gives it.

  Returns:
    Nested dicts of numpy arrays.

  Raises:
    ValueError: they are damaged, or not those that model.json was written for.
  """
  try:
    tensors = load(content)
    params: dict[str, Any] = unflatten_dict(tensors, sep='/')
  # The others where a dtype is one that numpy lacks, or an array lies below another.
  except (SafetensorError, AttributeError, KeyError, TypeError, IndexError) as error:
    raise ValueError(str(error)) from error
  if tree_digest(tensors) != facts.get(_TENSORS_DIGEST):
    raise ValueError(f'its arrays are not those that {FACTS} was written for')
  return params
