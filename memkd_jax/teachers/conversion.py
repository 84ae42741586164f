"""From a torchvision state dict to folded Flax parameters (method, section 1)."""

import os
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from memkd_jax import __version__
from memkd_jax.errors import UserError
from memkd_jax.files.reading import open_regular
from memkd_jax.models.resnet import ARCHITECTURES, Architecture
from memkd_jax.ops.normalization import IMAGENET_MEAN, IMAGENET_STD
from memkd_jax.teachers import torch_archive, weights

BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var')
BATCH_NORM_EPS = 1e-5
DTYPES = ('float32', 'bfloat16')
# Pixels: what the method resizes images to (protocol, data to arrays).
IMAGE_SIZE = 256

_BODY = re.compile(r'(conv1|bn1|layer\d)\.')
_SHOWN = 6  # prefixes in an error


def convert(
  source: Path | str,
  arch: str,
  out: Path | str,
  dtype: str = 'float32',
  prefix: str | None = None,
) -> list[int]:
  """Converts a file; `fold` says what is computed.

  Args:
    source: a state dict under torchvision's names, which are timm's as well,
      `.safetensors`, `.pth` or `.pt`. `layer4` and `fc` may be missing.
    arch: name of the network, a key of `ARCHITECTURES`.
    out: the safetensors file to write, complete or not at all. Nothing is replaced but a
      teacher.
    dtype: how `out` stores its values, one of `DTYPES`.
    prefix: see `read_state_dict`.

  Returns:
    The stages that `out` holds.

  Raises:
    UserError: the source is missing, unreadable, or not of this architecture; or `out` is
      there and is no teacher.
  """
  source, out = Path(source), Path(out)
  if os.path.realpath(source) == os.path.realpath(out):  # which does not mind loops
    raise UserError(f'{out} would replace its own source: choose another --out.')
  if out.exists() and not weights.is_teacher(out):
    raise UserError(f'{out} is there already, and is no teacher: choose another --out.')
  params = fold(read_state_dict(source, prefix), ARCHITECTURES[arch], str(source))
  if problems := weights.mismatches(params, arch):
    raise UserError(f'{source} does not fit {arch}: {"; ".join(problems)}; check --arch.')
  metadata = {
    'source_sha256': weights.sha256(source),
    'mean': IMAGENET_MEAN,
    'std': IMAGENET_STD,
    'image_size': IMAGE_SIZE,
    'dtype': dtype,
    'converter_version': __version__,
  }
  stored = {name: tensor.astype(jnp.dtype(dtype)) for name, tensor in params.items()}
  return weights.save_teacher(out, arch, unflatten_dict(stored, sep='/'), metadata)


def import_torch(purpose: str) -> ModuleType:
  """Imports torch, which only old files and the check of a conversion ever need.

  Args:
    purpose: the subject of the error's sentence.

  Raises:
    UserError: it is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(f'{purpose} needs torch: pip install "memkd_jax[convert]".') from error
  return torch


def read_state_dict(source: Path | str, prefix: str | None = None) -> dict[str, np.ndarray]:
  """Reads a state dict as numpy arrays; nothing in the file is executed.

  Args:
    source: see `convert`. A training checkpoint that holds the state dict as
      its 'state_dict' will do, and so will names with a common prefix
      ('module.', 'backbone.'), which is taken off.
    prefix: chooses one of several networks that the file holds, '' for the one whose names
      have none; may be left out where there is one alone.

  Returns:
    {'layer1.0.conv1.weight': array, ...}.

  Raises:
    UserError: the file is missing, of another kind, or broken; or `prefix` is missing or
      wrong.
  """
  source = Path(source)
  if not source.is_file():
    raise UserError(f'There is no file {source}; pass a torchvision state dict as --source.')
  with open_regular(source):  # what may not be read is told by the system's own error
    pass
  if source.suffix == '.safetensors':
    state = _read_safetensors(source)
  elif source.suffix in ('.pth', '.pt'):
    state = _read_pickle(source)
  else:
    raise UserError(f'{source} must end in .safetensors, .pth or .pt.')
  chosen = _choose_prefix(state, prefix, source)
  return {n.removeprefix(chosen): x for n, x in state.items() if n.startswith(chosen)}


def _choose_prefix(names: Collection[str], prefix: str | None, source: Path) -> str:
  """What stands before the names of the network that is asked for."""
  ending = weights.STATE_DICT_NAME
  # Those of blocks end so as well, but hold no blocks.
  found = sorted(
    root
    for root in (name.removesuffix(ending) for name in names if name.endswith(ending))
    if f'{root}layer1.0.{ending}' in names
  )
  shown = [shlex.quote(root.removesuffix('.')) for root in found[:_SHOWN]]
  flags = ' or '.join(f'--prefix={root}' for root in shown)
  if prefix is not None:
    chosen = prefix if prefix in found else f'{prefix}.'
    if chosen not in found:
      raise UserError(
        f'{source} has no network for --prefix={prefix}; it has {flags or "none at all"}.'
      )
    return chosen
  if len(found) > 1:
    raise UserError(f'{source} holds {len(found)} networks: choose one with {flags}.')
  return found[0] if found else ''


def _read_safetensors(source: Path) -> dict[str, np.ndarray]:
  try:
    return load_file(source)
  # The latter of a dtype that numpy lacks.
  except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f'{source} is not a readable safetensors file: {error}.') from error


def _read_pickle(source: Path) -> dict[str, np.ndarray]:
  """The formats of torch before and since 1.6, tensors and containers only."""
  with open_regular(source) as file:
    legacy = file.read(len(torch_archive.LEGACY_MAGIC)) == torch_archive.LEGACY_MAGIC
  torch = import_torch(f'Reading {source}, of the format before torch 1.6,') if legacy else None
  try:
    return _load_archive(source) if torch is None else _load_with_torch(torch, source)
  except (AttributeError, TypeError) as error:
    raise UserError(f'{source} is not a state dict of tensors.') from error
  except Exception as error:  # a damaged file may raise nearly anything
    reason = ' '.join(str(error).split('. ')[0].split()) or type(error).__name__
    raise UserError(
      f'{source} is broken or holds more than tensors: {reason}; save its state dict alone, '
      'with torch.save or as .safetensors.'
    ) from error


def _load_archive(source: Path) -> dict[str, np.ndarray]:
  saved: Any = torch_archive.read(source)
  state: dict[str, np.ndarray] = saved.get('state_dict', saved)
  if not all(type(n) is str and isinstance(x, np.ndarray) for n, x in state.items()):
    raise TypeError
  return state


def _load_with_torch(torch: ModuleType, source: Path) -> dict[str, np.ndarray]:
  state = torch.load(source, map_location='cpu', weights_only=True)
  state = state.get('state_dict', state)
  size = source.stat().st_size
  for name, t in state.items():
    if not isinstance(name, str):
      raise TypeError
    if t.numel() * t.element_size() > size:  # repeats what is stored
      raise ValueError(f'{name} is larger than the file')
  return {
    # numpy lacks bfloat16, and knows no parameters.
    name: (t.detach().float() if t.is_floating_point() else t).numpy()
    for name, t in state.items()
  }


def fold(
  state: Mapping[str, np.ndarray], arch: Architecture, source: str
) -> dict[str, np.ndarray]:
  """Folds each BatchNorm into its convolution, in float64.

  w' = w gamma / sqrt(var + eps) and b' = beta - mean gamma / sqrt(var + eps).

  Args:
    state: torchvision's names and layout (convolutions [out, in, kh, kw]).
    arch: the architecture that the names are read for.
    source: the name of the file, for errors.

  Returns:
    {'stage1/block0/conv1/conv/kernel': [kh, kw, in, out], '.../bias': [out]},
    float32. What is not of the stem or a stage (`fc`) is left out.

  Raises:
    UserError: a tensor is missing, one too many, or not of floating-point
      numbers; all are named at once.
  """
  names = _convolutions(arch)
  if not any(name.startswith('layer4.') for name in state):
    names = {ours: theirs for ours, theirs in names.items() if not ours.startswith('stage4/')}
  wanted = {
    name
    for conv, norm in names.values()
    for name in (f'{conv}.weight', *(f'{norm}.{s}' for s in BATCH_NORM))
  }
  problems = [f'{name} is missing' for name in sorted(wanted - state.keys())]
  for name, tensor in sorted(state.items()):
    if name in wanted and not jnp.issubdtype(tensor.dtype, jnp.floating):
      problems.append(f'{name} holds {tensor.dtype}')
    elif name not in wanted and _BODY.match(name) and not name.endswith('num_batches_tracked'):
      problems.append(f'{name} is one too many')
  if problems:
    raise UserError(
      f'{source} is not of the architecture asked for: {", ".join(problems)}; check --arch.'
    )
  params = {}
  for ours, (conv, norm) in names.items():
    kernel = np.asarray(state[f'{conv}.weight'], np.float64)
    gamma, beta, mean, variance = (
      np.asarray(state[f'{norm}.{s}'], np.float64) for s in BATCH_NORM
    )
    if (
      kernel.ndim != 4
      or not kernel.shape[:1] == gamma.shape == beta.shape == mean.shape == variance.shape
    ):
      raise UserError(f'{source}: {conv} and {norm} have shapes that do not belong together.')
    if not (variance > -BATCH_NORM_EPS).all():
      raise UserError(f'{source}: {norm}.running_var holds what is no variance.')
    with np.errstate(over='ignore', invalid='ignore'):  # `weights.mismatches` finds these
      scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
      folded = np.transpose(kernel, (2, 3, 1, 0)) * scale
      params[f'{ours}/conv/kernel'] = np.ascontiguousarray(folded, np.float32)
      params[f'{ours}/conv/bias'] = (beta - mean * scale).astype(np.float32)
  return params


def _convolutions(arch: Architecture) -> dict[str, tuple[str, str]]:
  """Our module -> torchvision's convolution and its BatchNorm."""
  names = {'stem': ('conv1', 'bn1')}
  for stage in range(1, 5):
    for block in range(arch.blocks[stage - 1]):
      ours, theirs = f'stage{stage}/block{block}', f'layer{stage}.{block}'
      for i in range(1, 3 if arch.block == 'basic' else 4):
        names[f'{ours}/conv{i}'] = (f'{theirs}.conv{i}', f'{theirs}.bn{i}')
      # The first block of a stage projects its shortcut wherever shape changes.
      if block == 0 and (stage > 1 or arch.block == 'bottleneck'):
        names[f'{ours}/shortcut'] = (f'{theirs}.downsample.0', f'{theirs}.downsample.1')
  return names
