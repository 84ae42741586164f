"""From a torchvision state dict to folded Flax parameters (method, section 1)."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

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
from memkd_jax.teachers import weights

BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var')
BATCH_NORM_EPS = 1e-5
DTYPES = ('float32', 'bfloat16')
# Pixels: what the method resizes images to (protocol, data to arrays).
IMAGE_SIZE = 256

_FIRST = 'bn1.running_mean'  # a name that every network here has
_BODY = re.compile(r'(conv1|bn1|layer\d)\.')


def convert(
  source: Path | str, arch: str, out: Path | str, dtype: str = 'float32'
) -> list[int]:
  """Converts a file; `fold` says what is computed.

  Args:
    source: a state dict under torchvision's names, which are timm's as well,
      `.safetensors` (needs no torch) or `.pth` / `.pt` (needs torch; only
      tensors are unpickled). `layer4` and `fc` may be missing.
    arch: a key of `ARCHITECTURES`.
    out: the safetensors file to write, complete or not at all.
    dtype: of `DTYPES`, how `out` stores its values.

  Returns:
    The stages that `out` holds.

  Raises:
    UserError: the source is missing, unreadable, or not of this architecture.
  """
  source, out = Path(source), Path(out)
  if os.path.realpath(source) == os.path.realpath(out):  # which does not mind loops
    raise UserError(f'{out} would replace its own source: choose another --out.')
  params = fold(read_state_dict(source), ARCHITECTURES[arch], str(source))
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
  """Imports torch, which only conversion and its check ever use.

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


def read_state_dict(source: Path | str) -> dict[str, np.ndarray]:
  """Reads a state dict as numpy arrays; nothing in the file is executed.

  Args:
    source: see `convert`. A training checkpoint that holds the state dict as
      its 'state_dict' will do, and so will names with a common prefix
      ('module.', 'backbone.'), which is taken off.

  Returns:
    {'layer1.0.conv1.weight': array, ...}.

  Raises:
    UserError: the file is missing, of another kind, or broken.
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
  prefix = min(
    (n.removesuffix(_FIRST) for n in state if n.endswith(_FIRST)), key=len, default=''
  )
  return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _read_safetensors(source: Path) -> dict[str, np.ndarray]:
  try:
    return load_file(source)
  # The latter of a dtype that numpy lacks.
  except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f'{source} is not a readable safetensors file: {error}.') from error


def _read_pickle(source: Path) -> dict[str, np.ndarray]:
  """The formats of torch before and since 1.6, tensors and containers only."""
  torch = import_torch(f'Reading {source} (a .safetensors file needs none)')
  try:
    _check_archive(source)
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
  except (AttributeError, TypeError) as error:
    raise UserError(f'{source} is not a state dict of tensors.') from error
  except Exception as error:  # a damaged pickle may raise nearly anything
    reason = ' '.join(str(error).split('. ')[0].split()) or type(error).__name__
    raise UserError(f'{source} is broken or holds more than tensors: {reason}') from error


def _check_archive(source: Path) -> None:
  """Checks what torch does not: the checksums of an archive, and that nothing inflates."""
  if not zipfile.is_zipfile(source):  # the format before torch 1.6 has no checksums
    return
  with zipfile.ZipFile(source) as archive:
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
      raise ValueError('it is compressed, which torch never does')
    if damaged := archive.testzip():
      raise ValueError(f'the checksum of its part {damaged} is wrong')


def fold(
  state: Mapping[str, np.ndarray], arch: Architecture, source: str
) -> dict[str, np.ndarray]:
  """Folds each BatchNorm into its convolution, in float64.

  w' = w gamma / sqrt(var + eps) and b' = beta - mean gamma / sqrt(var + eps).

  Args:
    state: torchvision's names and layout (convolutions [out, in, kh, kw]).
    arch: the architecture that the names are read for.
    source: named in errors.

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
