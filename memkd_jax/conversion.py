"""From a torchvision state dict to folded Flax parameters (method, section 1)."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from memkd_jax import __version__, weights
from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Architecture
from memkd_jax.normalization import IMAGENET_MEAN, IMAGENET_STD

_BATCH_NORM_EPS = 1e-5


def convert(source: Path | str, arch: str, out: Path | str) -> list[int]:
  """Converts a file; `fold` says what is computed.

  Args:
    source: a torchvision state dict, `.safetensors` (needs no torch) or `.pth`
      / `.pt` (needs torch; only tensors are unpickled). `layer4` and `fc` may
      be missing.
    arch: a key of `ARCHITECTURES`.
    out: the safetensors file to write, complete or not at all.

  Returns:
    The stages that `out` holds.

  Raises:
    UserError: the source is missing, unreadable, or not of this architecture.
  """
  source, out = Path(source).expanduser(), Path(out).expanduser()
  params = fold(read_state_dict(source), ARCHITECTURES[arch], str(source))
  if problems := weights.mismatches(params, arch):
    raise UserError(f'{source} does not fit {arch}: {"; ".join(problems)}; check --arch.')
  metadata = {
    'source_sha256': weights.sha256(source),
    'mean': IMAGENET_MEAN,
    'std': IMAGENET_STD,
    'converter_version': __version__,
  }
  return weights.save_teacher(out, arch, unflatten_dict(params, sep='/'), metadata)


def read_state_dict(source: Path | str) -> dict[str, np.ndarray]:
  """Reads a state dict as numpy arrays; nothing in the file is executed.

  Raises:
    UserError: the file is missing, of another kind, or broken.
  """
  source = Path(source)
  if not source.is_file():
    raise UserError(f'There is no file {source}; pass a torchvision state dict as --source.')
  if source.suffix == '.safetensors':
    try:
      return load_file(source)
    except (SafetensorError, OSError, AttributeError) as error:  # a dtype that numpy lacks
      raise UserError(f'{source} is not a readable safetensors file: {error}.') from error
  if source.suffix not in ('.pth', '.pt'):
    raise UserError(f'{source} must end in .safetensors, .pth or .pt.')
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f'Reading {source} needs torch (pip install "memkd_jax[convert]"); '
      'a .safetensors file needs none.'
    ) from error
  try:
    state = torch.load(source, map_location='cpu', weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}
  except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f'{source} is broken or holds more than tensors: {reason}') from error
  except (AttributeError, TypeError) as error:
    raise UserError(f'{source} is not a state dict of tensors.') from error


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
    float32. What the architecture does not name (`fc`) is left out.

  Raises:
    UserError: a tensor is missing; all are named at once.
  """
  names = _convolutions(arch)
  if not any(name.startswith('layer4.') for name in state):
    names = {ours: theirs for ours, theirs in names.items() if not ours.startswith('stage4/')}
  statistics = ('weight', 'bias', 'running_mean', 'running_var')
  missing = [
    name
    for conv, norm in names.values()
    for name in (f'{conv}.weight', *(f'{norm}.{s}' for s in statistics))
    if name not in state
  ]
  if missing:
    raise UserError(
      f'{source} lacks {", ".join(missing)}: it is not of the architecture asked for.'
    )
  params = {}
  for ours, (conv, norm) in names.items():
    kernel = np.asarray(state[f'{conv}.weight'], np.float64)
    gamma, beta, mean, variance = (
      np.asarray(state[f'{norm}.{s}'], np.float64) for s in statistics
    )
    if (
      kernel.ndim != 4
      or not kernel.shape[:1] == gamma.shape == beta.shape == mean.shape == variance.shape
    ):
      raise UserError(f'{source}: {conv} and {norm} have shapes that do not belong together.')
    scale = gamma / np.sqrt(variance + _BATCH_NORM_EPS)
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
