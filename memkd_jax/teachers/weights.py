"""Reads converted teacher weights, and checks them against the architecture."""

import functools
import hashlib
import itertools
import json
import os
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import tree_digest
from memkd_jax.files.reading import parse_json
from memkd_jax.models.resnet import ARCHITECTURES, Teacher

# A file may store its values in half the bytes; in memory they are float32.
_STORED_DTYPES = (np.dtype(np.float32), jnp.dtype(jnp.bfloat16))
# All metadata is one JSON string under one key: the order in which safetensors
# writes several keys is not defined, and equal inputs must give equal files.
_METADATA_KEY = 'memkd_jax'
_DIGEST_KEY = 'tensors_sha256'
# What reading a tensor raises whose dtype numpy lacks.
_UNKNOWN_DTYPE = (AttributeError, KeyError, TypeError, ValueError)
_FIELD = '--config.model.teacher_weights'
# A name that the state dict of every network here has, perhaps after a prefix.
STATE_DICT_NAME = 'bn1.running_mean'


def load(path: Path | str, expected_arch: str | None = None) -> tuple[str, dict[str, Any]]:
  """Loads a file that `memkd weights` wrote.

  Args:
    path: the safetensors file that is read.
    expected_arch: the architecture that the file must be for, any where None.

  Returns:
    The architecture's name and the folded parameters for `Teacher`, float32.

  Raises:
    UserError: the file is missing, broken, not a converted one, of another
      architecture, does not hold what its architecture has (all mismatches are named
      at once), or holds other values than were written.
  """
  metadata = read_metadata(path, expected_arch)
  arch = metadata['arch']
  if expected_arch not in (None, arch):
    raise UserError(
      f'{path} holds a {arch}, but --config.model.backbone is {expected_arch}: set '
      f'--config.model.backbone={arch}, or {_how_to_make(expected_arch, path)}'
    )
  how = _how_to_make(arch, path)
  try:
    tensors = load_file(path)
  except (SafetensorError, OSError, *_UNKNOWN_DTYPE) as error:
    raise UserError(f'{path} holds tensors that cannot be read ({error}); {how}') from error
  if problems := mismatches(tensors, arch):
    raise UserError(f'{path} does not fit {arch}: {"; ".join(problems)}; {how}')
  # Files of the first version have no digest.
  if metadata.get(_DIGEST_KEY, found := tree_digest(tensors)) != found:
    raise UserError(f'{path} is damaged: its values are not those that were written; {how}')
  tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
  return arch, unflatten_dict(tensors, sep='/')


def read_metadata(path: Path | str, expected_arch: str | None = None) -> dict[str, Any]:
  """Reads the metadata of a converted file: arch, stages, source_sha256, ...

  Args:
    path: the safetensors file that is read.
    expected_arch: named in the advice of errors, which, followed literally, makes such a
      file, and never in the place of one that is there: that may be the user's own.

  Raises:
    UserError: the file is missing, broken, or not a converted one.
  """
  path = Path(path)
  how = _how_to_make(expected_arch, path)
  if not path.is_file():
    raise UserError(f'There is no teacher at {path}; {how}')
  if path.suffix in ('.pth', '.pt'):
    how = _how_to_make(expected_arch, path, from_it=True)
    raise UserError(f'{path} is a file of torch, not a converted teacher; {how}')
  try:
    with safe_open(path, framework='numpy') as file:
      found, names = file.metadata() or {}, list(file.keys())
      if _METADATA_KEY in found:
        metadata = parse_json(found[_METADATA_KEY])
        if metadata['arch'] in ARCHITECTURES:
          return metadata
        raise UserError(f'{path} is for the unknown architecture {metadata["arch"]!r}; {how}')
  except (SafetensorError, OSError) as error:
    raise UserError(f'{path} is not a readable safetensors file ({error}); {how}') from error
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} is not a converted teacher: its metadata are damaged; {how}'
    ) from error
  raw = path.suffix == '.safetensors' and any(n.endswith(STATE_DICT_NAME) for n in names)
  how = _how_to_make(expected_arch, path, from_it=raw)
  raise UserError(f'{path} is not a converted teacher: it has none of the metadata; {how}')


def is_teacher(path: Path | str) -> bool:
  """Whether a file is one that `save_teacher` wrote, of whatever architecture."""
  try:
    read_metadata(path)
  except UserError:
    return False
  return True


def _how_to_make(arch: str | None, path: Path | str, from_it: bool = False) -> str:
  """The remedy for a teacher that is missing or none, as the end of a sentence.

  Args:
    arch: name of the architecture that is wanted.
    path: the file that the teacher should be.
    from_it: whether what is there is a state dict that only has to be converted.
  """
  path, arch = Path(path), arch or 'ARCH'
  out = path
  if os.path.lexists(path):
    names = itertools.chain([arch], (f'{arch}-{i}' for i in itertools.count(2)))
    free = (path.with_name(f'{name}.safetensors') for name in names)
    out = next(new for new in free if not os.path.lexists(new))
  source = [f'--source={path}'] if from_it else []
  command = ['memkd', 'weights', f'--arch={arch}', *source, f'--out={out}']
  verb = 'convert it' if from_it else 'make it' if out == path else 'make another'
  use = '' if out == path else f', and name that with {shlex.quote(f"{_FIELD}={out}")}'
  return f'{verb} with `{shlex.join(command)}`{use}.'


def save_teacher(
  path: Path | str, arch: str, params: dict[str, Any], metadata: dict[str, Any]
) -> list[int]:
  """Writes folded parameters; equal inputs give byte-identical files.

  Args:
    path: the safetensors file that is written.
    arch: name of the network, a key of `ARCHITECTURES`.
    params: parameters of `Teacher`, nested dicts of arrays.
    metadata: JSON values that are stored beside the architecture and its stages.

  Returns:
    The stages that the file holds.
  """
  tensors = flatten_dict(params, sep='/')
  stages = sorted({int(n[5]) for n in tensors if n.startswith('stage')})
  facts = {'arch': arch, 'stages': stages, _DIGEST_KEY: tree_digest(tensors)}
  text = json.dumps(facts | metadata, sort_keys=True)
  with atomic.atomic_write(path) as temporary:
    temporary.write_bytes(save(tensors, {_METADATA_KEY: text}))
  return stages


def mismatches(tensors: dict[str, np.ndarray], arch: str) -> list[str]:
  """Names every missing, extra, misshapen, mistyped or infinite tensor of a teacher.

  Args:
    tensors: {'stage1/block0/conv1/conv/kernel': array, ...}; stage 4 is there in
      full or not at all.
    arch: name of the network, a key of `ARCHITECTURES`.

  Returns:
    One clause per problem, sorted; empty where all is well.
  """
  has_stage4 = any(name.startswith('stage4/') for name in tensors)
  expected = _expected_tensors(arch, 4 if has_stage4 else 3)
  problems = [f'{n} is missing' for n in expected if n not in tensors]
  problems += [f'{n} does not belong to {arch}' for n in tensors if n not in expected]
  for name in expected.keys() & tensors.keys():
    tensor, shape = tensors[name], expected[name].shape
    if tensor.shape != shape:
      problems.append(f'{name} has shape {tensor.shape} instead of {shape}')
    elif tensor.dtype not in _STORED_DTYPES:
      problems.append(f'{name} is {tensor.dtype} instead of float32 or bfloat16')
    elif not np.isfinite(tensor).all():
      problems.append(f'{name} has values that are not finite')
  return sorted(problems)


def random_teacher(arch: str, seed: int = 0) -> dict[str, Any]:
  """Kaiming-normal parameters of all four stages; their features mean nothing.

  Args:
    arch: name of the network, a key of `ARCHITECTURES`.
    seed: seed by which parameters are drawn.

  Returns:
    Parameters for `Teacher`, float32.
  """
  generator = np.random.default_rng(seed)
  params = {}
  for name, tensor in _expected_tensors(arch, 4).items():
    # A kernel is [kh, kw, in, out]: its fan-out is kh * kw * out.
    fan_out = tensor.size / tensor.shape[-2] if name.endswith('kernel') else np.inf
    params[name] = generator.normal(0, np.sqrt(2 / fan_out), tensor.shape).astype(np.float32)
  return unflatten_dict(params, sep='/')


def sha256(path: Path | str) -> str:
  """The file's sha256, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


@functools.cache
def _expected_tensors(arch: str, stages: int) -> dict[str, jax.ShapeDtypeStruct]:
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(Teacher(arch, stages=stages).init, jax.random.key(0), images)
  return flatten_dict(shapes['params'], sep='/')
