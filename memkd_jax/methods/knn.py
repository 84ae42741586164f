"""Nearest neighbours among normal patches: the honest yardstick, which costs nothing.

Patches are those of PatchCore (Roth et al., CVPR 2022): positions of some of the teacher's
stages, averaged over their neighbours, on the grid of the first of these stages. A random
share of the training images' patches is kept; a patch is as abnormal as its distance to the
nearest of them, an image as its most abnormal patch.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field, require
from memkd_jax.data.sampling import category_seed
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.ops.resampling import resample_features, upsampling_matrix
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
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
  Field(
    'method.share',
    0.1,
    "Share of the training images' patches that is kept, drawn at random",
    high=1,
    open_low=True,
  ),
)
# Patches of the memory that are compared at a time: distances take 4 bytes for each pair.
_CHUNK = 2048


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  stages, side = config.method.stages, config.method.neighbourhood
  require('method.stages', stages, len(stages) > 0, 'names at least one stage')
  require('method.neighbourhood', side, side % 2 == 1, 'is odd')
  config.method.stages = tuple(sorted(set(stages)))
  return config


def create(
  config: ConfigDict, extractor: FeatureExtractor, devices: Devices
) -> 'NearestNeighbours':
  """Makes the method of a resolved config."""
  return NearestNeighbours(config, extractor, devices)


class NearestNeighbours(Method):
  """Distances to a random memory of patches; attributes as in `Method`."""

  name = 'kNN'
  diagnosed_stages = ()

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    self.stages = tuple(config.method.stages)
    self.notes: list[str] = []
    self._config, self._extractor, self._devices = config, extractor, devices

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Keeps a random share of the patches, the same ones for the same seed."""
    devices = self._devices
    size = devices.round_up(self._config.eval.batch_size)
    embed = devices.map(lambda p, x: self._patches(self._extractor(p, x, max(self.stages))))
    teacher_params = devices.replicate(self._extractor.params)
    chosen = self._choose(task, images)
    per_image = self._side(images) ** 2
    kept = []
    with progress_bar(task.name, len(images)) as progress:
      for begin in range(0, len(images), size):
        interrupt.raise_if_asked()
        batch = images[begin : begin + size]
        patches = embed(teacher_params, devices.pad_shard(batch, size))
        rows = devices.unshard(patches, len(batch)).reshape(-1, patches.shape[-1])
        first = begin * per_image
        low, high = np.searchsorted(chosen, (first, first + len(rows)))
        kept.append(rows[chosen[low:high] - first])
        progress.update(len(batch))
    return Fitted({'memory': np.concatenate(kept)}, {})

  def _side(self, images: np.ndarray) -> int:
    """Positions of the patches' grid in a row."""
    return images.shape[1] // self._extractor.stride(self.stages[0])

  def _choose(self, task: Task, images: np.ndarray) -> np.ndarray:
    """Which of all patches are kept, in ascending order, whatever the size of a batch."""
    number = len(images) * self._side(images) ** 2
    kept = max(1, round(self._config.method.share * number))
    generator = np.random.default_rng(category_seed(task.seed, task.name))
    return np.sort(generator.choice(number, kept, replace=False))

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{0: Euclidean distance of each patch to the nearest of the memory}."""
    patches = self._patches(features)
    flat = patches.reshape(-1, patches.shape[-1])
    return {0: nearest_distance(flat, params['memory']).reshape(patches.shape[:-1])}

  def image_scores(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    combined: jax.Array,
  ) -> jax.Array:
    """The distance of the most abnormal patch, before any smoothing."""
    return jnp.max(maps[0], axis=(1, 2))

  def _patches(self, features: tuple[jax.Array, ...]) -> jax.Array:
    """[B, H, W, C of all stages together] on the grid of the first stage, float32."""
    grids = [
      local_mean(features[k - 1].astype(jnp.float32), self._config.method.neighbourhood)
      for k in self.stages
    ]
    side = grids[0].shape[1]
    matrices = [upsampling_matrix(grid.shape[1], side, align_corners=False) for grid in grids]
    resized = [resample_features(*pair) for pair in zip(grids[1:], matrices[1:], strict=True)]
    return jnp.concatenate([grids[0], *resized], axis=-1)


def local_mean(features: jax.Array, side: int) -> jax.Array:
  """Means over squares of `side` positions; zeros around the border count.

  Args:
    features: [B, H, W, C].
    side: an odd number of positions.

  Returns:
    [B, H, W, C].
  """
  height, width, pad = *features.shape[1:3], side // 2
  padded = jnp.pad(features, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows = functools.reduce(jnp.add, [padded[:, i : i + height] for i in range(side)])
  both = functools.reduce(jnp.add, [rows[:, :, j : j + width] for j in range(side)])
  return both / side**2


def nearest_distance(queries: jax.Array, memory: jax.Array) -> jax.Array:
  """The Euclidean distance of each query to the nearest row of a memory.

  |q - m|^2 = |q|^2 - 2 q m + |m|^2, so that it is matrix products, a part of the memory at
  a time.

  Args:
    queries: [N, C].
    memory: [M, C].

  Returns:
    [N], float32.
  """
  # Distances stay the same, and their squares come out of smaller numbers.
  centre = jnp.mean(memory, axis=0)
  queries, memory = queries - centre, memory - centre
  # Not as many as there are queries, because ONNX is written for any number of them.
  nearest: jax.Array | float = jnp.inf
  for begin in range(0, memory.shape[0], _CHUNK):
    part = memory[begin : begin + _CHUNK]
    products = jnp.matmul(queries, part.T, precision='highest')
    nearest = jnp.minimum(nearest, jnp.min(jnp.sum(part**2, -1) - 2 * products, axis=-1))
  return jnp.sqrt(jnp.maximum(nearest + jnp.sum(queries**2, -1), 0))
