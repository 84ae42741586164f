"""Nearest neighbours among normal patches: the honest yardstick, which costs nothing.

Patches are those of PatchCore, see `patches`, with all their channels. A random
share of the training images' patches is kept; a patch is as abnormal as its distance to the
nearest of them, an image as its most abnormal patch.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field
from memkd_jax.data.sampling import category_seed
from memkd_jax.methods import patches
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

FIELDS = (
  *patches.FIELDS,
  patches.PRODUCTS_FIELD,
  Field(
    'method.share',
    0.1,
    "Share of the training images' patches that is kept, drawn at random",
    high=1,
    open_low=True,
  ),
)


_MEMORIZED = 0.5  # share of the patches above which most are found again


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  return patches.resolve(config)


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
    self.notes: list[str] = []
    self._config = config
    self._patches = patches.Patches(config, extractor, devices)
    self.stages = self._patches.stages
    self.memorizes = config.method.share > _MEMORIZED

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Keeps a random share of the patches, the same ones for the same seed."""
    counting = self._patches.counting(images)
    kept = max(1, round(self._config.method.share * len(counting)))
    generator = np.random.default_rng(category_seed(task.seed, task.name))
    chosen = counting[np.sort(generator.choice(len(counting), kept, replace=False))]
    return Fitted({'memory': self._patches.choose(task.name, images, chosen)}, {})

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{0: Euclidean distance of each patch to the nearest of the memory}."""
    products = self._config.method.products
    return {0: self._patches.distances(features, params['memory'], products)}

  def image_scores(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    combined: jax.Array,
  ) -> jax.Array:
    """The distance of the most abnormal patch, before any smoothing."""
    return jnp.max(maps[0], axis=(1, 2))
