"""Reads converted teacher weights, and checks them against the architecture."""

import functools
import hashlib
import json
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
_HOW_TO_CONVERT = 'make it with: python tools/convert_torchvision.py --arch={arch} --out={path}'


def load(path: Path | str, expected_arch: str | None = None) -> tuple[str, dict[str, Any]]:
  """Loads a file that `tools/convert_torchvision.py` wrote.

  Args:
    path: the safetensors file.
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
      f'{path} holds a {arch}, but --config.model.backbone is {expected_arch}: change it, or '
      + _HOW_TO_CONVERT.format(arch=expected_arch, path='OTHER.safetensors')
    )
  how = _HOW_TO_CONVERT.format(arch=arch, path=path)
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
    path: the safetensors file.
    expected_arch: named in the advice of errors.

  Raises:
    UserError: the file is missing, broken, or not a converted one.
  """
  how = _HOW_TO_CONVERT.format(arch=expected_arch or 'ARCH', path=path)
  if not Path(path).is_file():
    raise UserError(f'There is no teacher at {path}; {how}')
  try:
    with safe_open(path, framework='numpy') as file:
      metadata = parse_json((file.metadata() or {})[_METADATA_KEY])
      if metadata['arch'] in ARCHITECTURES:
        return metadata
      raise UserError(f'{path} is for the unknown architecture {metadata["arch"]!r}; {how}')
  except (SafetensorError, OSError) as error:
    raise UserError(f'{path} is not a readable safetensors file ({error}); {how}') from error
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{path} is not a converted teacher: it has no architecture in its metadata; {how}'
    ) from error


def save_teacher(
  path: Path | str, arch: str, params: dict[str, Any], metadata: dict[str, Any]
) -> list[int]:
  """Writes folded parameters; equal inputs give byte-identical files.

  Args:
    path: where to.
    arch: a key of `ARCHITECTURES`.
    params: of `Teacher`.
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
    arch: a key of `ARCHITECTURES`.

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
    arch: a key of `ARCHITECTURES`.
    seed: of the draw.

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
