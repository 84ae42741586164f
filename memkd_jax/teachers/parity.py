"""The converted teacher beside torch's own layers, unfolded: how far apart are they?"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from memkd_jax.data.images import read_image
from memkd_jax.data.listing import list_images
from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Teacher
from memkd_jax.ops.normalization import normalize_images
from memkd_jax.teachers import conversion, weights

if TYPE_CHECKING:
  from torch import Tensor

# A converted float32 file that differs more than this is wrong; rounding alone
# gives some 1e-6.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class StageError:
  """The largest differences of one stage over a batch of images.

  Attributes:
    absolute: largest absolute difference of any value.
    relative: largest norm of any image's difference over the norm of torch's features.
  """

  absolute: float
  relative: float


def compare(
  source: Path | str,
  converted: Path | str,
  folder: Path | str | None = None,
  prefix: str | None = None,
) -> str:
  """A table of the largest errors on random and on real images.

  Args:
    source: the state dict that was converted.
    converted: the file that `conversion.convert` made of it.
    folder: a folder with real images, see `real_images`.
    prefix: see `conversion.read_state_dict`.

  Raises:
    UserError: a file cannot be read, torch is missing, or a float32 file differs
      by more than `TOLERANCE` (after the table, which is part of the error).
  """
  metadata = weights.read_metadata(converted)
  kinds = {
    'random': random_images(conversion.IMAGE_SIZE),
    'real': real_images(conversion.IMAGE_SIZE, folder),
  }
  lines = ['stage  images     largest absolute  largest relative error (norms), against torch']
  worst = 0.0
  for kind, images in kinds.items():
    errors = stage_errors(source, converted, images, prefix)
    for stage, error in enumerate(errors, start=1):
      lines.append(
        f'{stage:>5}  {len(images)} {kind:<8} {error.absolute:>16.2e}  {error.relative:>16.2e}'
      )
      worst = max(worst, error.relative)
  table = '\n'.join(lines)
  if metadata.get('dtype', 'float32') == 'float32' and not worst <= TOLERANCE:
    raise UserError(f'{converted} differs from {source} by more than {TOLERANCE}:\n{table}')
  return table


def stage_errors(
  source: Path | str, converted: Path | str, images: np.ndarray, prefix: str | None = None
) -> list[StageError]:
  """Runs the source in torch and the converted file in Flax, both in float32.

  Args:
    source: the state dict that was converted.
    converted: the file that `conversion.convert` made of it.
    images: the images, float32 [B, H, W, 3], normalised.
    prefix: see `conversion.read_state_dict`.

  Returns:
    One per stage that the file holds.

  Raises:
    UserError: a file cannot be read, or torch is missing.
  """
  state = conversion.read_state_dict(source, prefix)
  arch, params = weights.load(converted)
  with jax.default_matmul_precision('highest'):
    ours = jax.jit(Teacher(arch).apply)({'params': params}, images)
  theirs = _torch_stages(state, arch, images, len(ours))
  return [_error(np.asarray(a), b) for a, b in zip(ours, theirs, strict=True)]


def random_images(size: int, number: int = 4) -> np.ndarray:
  """Standard normal values, float32 [number, size, size, 3]."""
  return np.random.default_rng(0).standard_normal((number, size, size, 3), np.float32)


def real_images(size: int, folder: Path | str | None = None, number: int = 4) -> np.ndarray:
  """Normalised photographs.

  Args:
    size: side of the square images in pixels.
    folder: a folder with images, of which the first are taken; scikit-image's own where None.
    number: number of images, at most.

  Returns:
    float32 [B, size, size, 3].

  Raises:
    UserError: the folder holds no image.
  """
  if folder is None:
    from skimage import data

    photographs = [data.astronaut(), data.coffee(), data.rocket(), data.chelsea()][:number]
    pixels = [np.asarray(Image.fromarray(p).resize((size, size))) for p in photographs]
  else:
    files = list_images(Path(folder))
    if not files:
      raise UserError(f'There is no image in {folder}: pass another folder as --images.')
    pixels = [read_image(file, (size, size))[0] for file in files[:number]]
  return np.asarray(normalize_images(jnp.asarray(np.stack(pixels))))


def _error(ours: np.ndarray, theirs: np.ndarray) -> StageError:
  difference = (ours - theirs).reshape(len(ours), -1)
  norms = np.linalg.norm(theirs.reshape(len(ours), -1), axis=1)
  return StageError(
    float(np.abs(difference).max()), float((np.linalg.norm(difference, axis=1) / norms).max())
  )


def _torch_stages(
  state: dict[str, np.ndarray], arch: str, images: np.ndarray, stages: int
) -> list[np.ndarray]:
  """The network of torchvision from torch's functions: convolution, BatchNorm, ReLU."""
  torch = conversion.import_torch('Comparing with torch')
  functional = torch.nn.functional
  architecture = ARCHITECTURES[arch]

  @functools.cache
  def tensor(name: str) -> 'Tensor':
    return torch.from_numpy(np.array(state[name], np.float32))

  def conv_norm(x: 'Tensor', conv: str, norm: str, stride: int = 1) -> 'Tensor':
    kernel = tensor(f'{conv}.weight')
    x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    statistics = (tensor(f'{norm}.{n}') for n in conversion.BATCH_NORM)
    gamma, beta, mean, variance = statistics
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=conversion.BATCH_NORM_EPS)

  with torch.inference_mode():
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    x = functional.max_pool2d(conv_norm(x, 'conv1', 'bn1', 2).relu(), 3, 2, 1)
    outputs = []
    for stage in range(1, stages + 1):
      for block in range(architecture.blocks[stage - 1]):
        name = f'layer{stage}.{block}'
        stride = 2 if stage > 1 and block == 0 else 1
        strides = [stride, 1] if architecture.block == 'basic' else [1, stride, 1]
        y = x
        for i, step in enumerate(strides, start=1):
          y = conv_norm(y if i == 1 else y.relu(), f'{name}.conv{i}', f'{name}.bn{i}', step)
        if f'{name}.downsample.0.weight' in state:
          x = conv_norm(x, f'{name}.downsample.0', f'{name}.downsample.1', stride)
        x = (x + y).relu()
      outputs.append(x.permute(0, 2, 3, 1).numpy())
  return outputs
