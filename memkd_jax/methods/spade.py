"""SPADE (Cohen and Hoshen, 2020): the nearest normal images, and positions among theirs.

An image is as abnormal as its mean distance to its K nearest training images, by the average of
the teacher's deepest stage. A position of a stage is as abnormal as its distance to the nearest
position of that stage in those K images. The features of all training images are kept.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.one_pass import ImagePass, collect, resolve_stages
from memkd_jax.ops import portable
from memkd_jax.ops.neighbours import k_nearest, nearest_distance
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

FIELDS = (
  Field(
    'method.stages', (1, 2, 3), "The teacher's stages that have a map each", choices=(1, 2, 3)
  ),
  Field(
    'method.images',
    50,
    'Number K of the nearest training images that an image is compared with',
    high=2**12,
    open_low=True,
  ),
)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  return resolve_stages(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'SPADE':
  """Makes the method of a resolved config."""
  return SPADE(config, extractor, devices)


class SPADE(Method):
  """Distances to the nearest images, and to positions of theirs; attributes as in `Method`."""

  name = 'SPADE'
  diagnosed_stages = ()
  memorizes = True

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    self.stages = tuple(config.method.stages)
    self.notes: list[str] = []
    self._config, self._extractor = config, extractor
    depth, size = max(self.stages), config.eval.batch_size
    self._look = ImagePass(extractor, depth, self._kept, devices, size)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Keeps the features of all images."""
    return Fitted(collect(self._look(task.name, images), len(images)), {})

  def _kept(self, features: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    """What is kept of images: the average [B, C], and stages [B, H_k W_k, C_k]."""
    kept = {'average': _average(features)}
    for k in self.stages:
      kept[f'stage{k}'] = _flat(features[k - 1])
    return kept

  def _nearest(
    self, params: Any, features: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Distances [B, K] to the nearest training images, and their indices."""
    known = jnp.asarray(params['average'])
    number = min(self._config.method.images, known.shape[0])
    return k_nearest(_average(features), known, number)

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{k: distance of each position to the nearest among the nearest images', of stage k}."""
    _, nearest = self._nearest(params, features)
    maps = {}
    for k in self.stages:
      known = jnp.asarray(params[f'stage{k}'])
      distances = _nearest_of_images(_flat(features[k - 1]), known, nearest)
      maps[k] = distances.reshape(features[k - 1].shape[:-1])
    return maps

  def image_scores(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    combined: jax.Array,
  ) -> jax.Array:
    """The mean distance to the nearest training images."""
    return jnp.mean(self._nearest(params, features)[0], axis=1)


def _average(features: tuple[jax.Array, ...]) -> jax.Array:
  return jnp.mean(features[-1].astype(jnp.float32), axis=(1, 2))


def _flat(stage: jax.Array) -> jax.Array:
  batch, height, width, channels = stage.shape
  return stage.astype(jnp.float32).reshape(batch, height * width, channels)


def _nearest_of_images(queries: jax.Array, known: jax.Array, images: jax.Array) -> jax.Array:
  """The distance of each position to the nearest position of some images.

  Args:
    queries: features at the positions, floating [B, P, C].
    known: [N, P, C], features of all training images.
    images: [B, K], the indices of the training images that count.

  Returns:
    [B, P].
  """

  def nearer(distances: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
    here = jax.vmap(nearest_distance)(queries, known[index])
    return jnp.minimum(distances, here), None

  distances = jnp.full_like(queries[..., 0], jnp.inf)
  if portable.wanted():  # of so many matrices of distances XLA would hold several at a time
    for i in range(images.shape[1]):
      distances, _ = nearer(distances, images[:, i])
    return distances
  return jax.lax.scan(nearer, distances, images.T)[0]
