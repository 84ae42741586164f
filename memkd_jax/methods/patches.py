"""Patches of an image: positions of some of the teacher's stages with their neighbours.

As in PatchCore (Roth et al., CVPR 2022): each position of a stage is averaged over its
neighbours, deeper stages are resized to the grid of the first, and all are put side by side.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from ml_collections import ConfigDict

from memkd_jax.config import Field, require
from memkd_jax.methods.one_pass import ImagePass, resolve_stages
from memkd_jax.ops.neighbours import PRODUCTS, nearest_distance
from memkd_jax.ops.resampling import upsample_features
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.anomaly_map import seen_positions
from memkd_jax.teachers.extractor import FeatureExtractor

FIELDS = (
  Field(
    'method.stages', (2, 3), "The teacher's stages that make up a patch", choices=(1, 2, 3)
  ),
  Field(
    'method.neighbourhood',
    3,
    'Side of the square of positions that a patch is the mean of; an odd number',
    high=63,
    open_low=True,
  ),
)
# Of methods that use `Patches.distances`.
PRODUCTS_FIELD = Field(
  'method.products',
  'float32',
  'What patches are multiplied in when their nearest neighbours are sought; sums are float32',
  choices=PRODUCTS,
  scoring=True,
)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field of `FIELDS` can check by itself."""
  side = config.method.neighbourhood
  require('method.neighbourhood', side, side % 2 == 1, 'is odd')
  return resolve_stages(config)


class Patches:
  """How images become patches, and how far these are from a memory of others.

  Attributes:
    stages: the teacher's stages that make up a patch, ascending.
  """

  def __init__(
    self,
    config: ConfigDict,
    extractor: FeatureExtractor,
    devices: Devices,
    channels: int = 0,
    joint_channels: int = 0,
  ):
    """Takes what makes up a patch.

    Args:
      config: the resolved config, of which `FIELDS` are read, and eval.batch_size.
      extractor: the frozen teacher, which gives the features.
      devices: the devices that share out the batches of images.
      channels: number of channels to which those of each stage are averaged; 0 keeps them.
      joint_channels: number of channels to which those of all stages together are averaged; 0
        keeps them.
    """
    self.stages = tuple(config.method.stages)
    self._extractor, self._neighbourhood = extractor, config.method.neighbourhood
    self._channels, self._joint_channels = channels, joint_channels
    depth, size = max(self.stages), config.eval.batch_size
    self._look = ImagePass(extractor, depth, self, devices, size)

  def __call__(self, features: tuple[jax.Array, ...]) -> jax.Array:
    """Makes patches of features.

    Args:
      features: the teacher's stages 1 to the last of `stages`, [B, H_k, W_k, C_k].

    Returns:
      [B, H, W, C] on the grid of the first of `stages`, float32.
    """
    grids = [
      local_mean(features[k - 1].astype(jnp.float32), self._neighbourhood) for k in self.stages
    ]
    _, height, width, _ = grids[0].shape
    resized = [
      upsample_features(grid, (height, width), align_corners=False) for grid in grids[1:]
    ]
    found = jnp.concatenate([grids[0], *resized], axis=-1)
    if not (self._channels or self._joint_channels):
      return found
    channels = [grid.shape[-1] for grid in grids]
    matrix = pooling_matrix(channels, self._channels, self._joint_channels)
    return jnp.matmul(found, jnp.asarray(matrix, found.dtype), precision='highest')

  def positions(self, images: np.ndarray) -> int:
    """The grid's positions, which are an image's patches, for images [N, H, W, channels]."""
    stride = self._extractor.stride(self.stages[0])
    return (images.shape[1] // stride) * (images.shape[2] // stride)

  def shape(self, images: np.ndarray) -> tuple[int, int]:
    """(number of patches, channels of each) of images [N, H, W, channels]."""
    stages = self._extractor.shapes(images.shape[1:3], max(self.stages))
    return len(images) * self.positions(images), jax.eval_shape(self, stages).shape[-1]

  def counting(self, images: np.ndarray) -> np.ndarray:
    """Which patches cover any pixel that counts: int64 [M], image by image, row by row.

    Args:
      images: the images, uint8 [N, H, W, 3], of which all patches do; or [N, H, W, 4], see
        `data.framing`.
    """
    number = len(images) * self.positions(images)
    if images.shape[-1] != 4:
      return np.arange(number)
    stride = self._extractor.stride(self.stages[0])
    grid = images.shape[1] // stride, images.shape[2] // stride
    seen = [np.asarray(seen_positions(image[None, ..., 3] > 0, grid)) for image in images]
    return np.flatnonzero(np.concatenate(seen))

  def choose(self, name: str, images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some of the patches of images, of which no more than a batch is held.

    Args:
      name: what the progress bar is called.
      images: the images, uint8 [N, H, W, channels].
      chosen: int64 [M], indices of patches, ascending: image by image, row by row.

    Returns:
      float32 [M, C].
    """
    number, channels = self.shape(images)
    kept = np.empty((len(chosen), channels), np.float32)
    for which, found in self._look(name, images):
      first = which.start * (number // len(images))
      rows = found.reshape(-1, channels)
      low, high = np.searchsorted(chosen, (first, first + len(rows)))
      kept[low:high] = rows[chosen[low:high] - first]
    return kept

  def distances(
    self, features: tuple[jax.Array, ...], memory: jax.Array, products: str
  ) -> jax.Array:
    """How far patches are from a memory.

    Args:
      features: see `__call__`.
      memory: the patches of the memory, floating [M, C].
      products: the value of `PRODUCTS_FIELD`.

    Returns:
      Euclidean distance of each patch to the nearest of the memory, [B, H, W].
    """
    found = self(features)
    flat = found.reshape(-1, found.shape[-1])
    return nearest_distance(flat, memory, products).reshape(found.shape[:-1])


def local_mean(features: jax.Array, side: int) -> jax.Array:
  """Means over squares of `side` positions; zeros around the border count.

  Args:
    features: feature maps, floating [B, H, W, C].
    side: side of the squares, an odd number of positions.

  Returns:
    [B, H, W, C].
  """
  height, width, pad = *features.shape[1:3], side // 2
  padded = jnp.pad(features, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows = functools.reduce(jnp.add, [padded[:, i : i + height] for i in range(side)])
  both = functools.reduce(jnp.add, [rows[:, :, j : j + width] for j in range(side)])
  return both / side**2


def pooling_matrix(channels: Sequence[int], number: int, joint: int) -> np.ndarray:
  """What averages the channels of each stage, and then those of all stages together.

  Where that gives more channels than there were, some are repeated; of these no more than the
  distances between patches is kept, in as many numbers as there were channels, since distances
  are all that a memory is asked for.

  Args:
    channels: number of channels C_k of each stage.
    number: number of channels to which those of each stage are averaged; 0 keeps them.
    joint: number of channels to which those of all stages together are averaged; 0 keeps them.

  Returns:
    [sum of C_k, D], D at most that sum; patches are multiplied by it from the left.
  """
  matrix = scipy.linalg.block_diag(*(_averages(c, number or c) for c in channels))
  matrix = matrix @ _averages(matrix.shape[1], joint or matrix.shape[1])
  if matrix.shape[1] > matrix.shape[0]:
    # M^T = Q R with orthonormal Q, so |x M| = |x R^T|.
    (triangle,) = scipy.linalg.qr(matrix.T, mode='r')
    matrix = triangle[: matrix.shape[0]].T
  return matrix


def _averages(channels: int, number: int) -> np.ndarray:
  """[channels, number], as PyTorch's adaptive pooling averages.

  Channel i of the result is the mean of the channels from floor(i C / number) to before
  ceil((i + 1) C / number), so that more than C repeat some of them.
  """
  matrix = np.zeros((channels, number))
  for i in range(number):
    begin, end = i * channels // number, -(-(i + 1) * channels // number)
    matrix[begin:end, i] = 1 / (end - begin)
  return matrix
