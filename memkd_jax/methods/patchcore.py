"""PatchCore (Roth et al., CVPR 2022): nearest neighbours in a coreset of normal patches.

Patches as in `patches`. The memory is a greedy k-centre coreset of the training images'
patches, chosen by distances after a random projection. A patch is as abnormal as its distance
to the nearest of the memory; an image as its most abnormal patch, the more so the lonelier that
patch's nearest neighbour is among its own.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import Field
from memkd_jax.data.sampling import category_seed
from memkd_jax.methods import patches
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.one_pass import ImagePass, collect
from memkd_jax.ops.coreset import k_centres
from memkd_jax.ops.neighbours import k_nearest
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.teachers.extractor import FeatureExtractor

# Of the memory; a detector that has one beside something else takes these alone.
MEMORY_FIELDS = (
  *patches.FIELDS,
  patches.PRODUCTS_FIELD,
  Field(
    'method.channels',
    1024,
    'Number of channels to which those of each stage are averaged; 0 keeps them',
    high=2**16,
  ),
  Field(
    'method.joint_channels',
    1024,
    'Number of channels to which those of all stages together are averaged; 0 keeps them',
    high=2**16,
  ),
  Field(
    'method.share',
    0.1,
    "Share of the training images' patches that is kept",
    high=1,
    open_low=True,
  ),
  Field(
    'method.most',
    0,
    'Number of patches that are kept at most, so that scoring takes no longer however many '
    'training images there are; 0 for as many as the share is',
    high=2**31 - 1,
  ),
  Field(
    'method.projection',
    128,
    'Number of random projections by which patches are chosen; 0 chooses by the patches '
    'themselves',
    high=2**16,
  ),
  Field(
    'method.host_gigabytes',
    4.0,
    "Gigabytes of the host's memory that the training images' patches may take; where they "
    'need more, those of the coreset are computed a second time; without projection, or of no '
    'more numbers than projections, they are held in any case',
    high=2**14,
    resumable=True,
  ),
)
FIELDS = (
  *MEMORY_FIELDS,
  Field(
    'method.neighbours',
    9,
    "Number b of the nearest neighbour's own neighbours that an image's score is re-weighted "
    'by; 1 leaves it as it is',
    high=2**10,
    open_low=True,
  ),
)


_MEMORIZED = 0.5  # share of the patches above which most are found again


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  return patches.resolve(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'PatchCore':
  """Makes the method of a resolved config."""
  return PatchCore(config, extractor, devices)


class _Found(NamedTuple):
  """What a pass over the images finds.

  Attributes:
    rows: patches, [B, H, W, C]; None where they are not held.
    projected: projections by which the patches are compared, [B, H, W, P]; None where they are
      compared by themselves.
  """

  rows: Any
  projected: Any


class PatchCore(Method):
  """Distances to a coreset of patches; attributes as in `Method`."""

  name = 'PatchCore'
  diagnosed_stages = ()

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    self.notes: list[str] = []
    self._config = config
    channels = config.method.channels, config.method.joint_channels
    self._patches = patches.Patches(config, extractor, devices, *channels)
    self.stages = self._patches.stages
    self.memorizes = config.method.share > _MEMORIZED and not config.method.most
    depth, size = max(self.stages), config.eval.batch_size
    self._look = ImagePass(extractor, depth, self._embed, devices, size)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Keeps a coreset of the patches, the same one for the same seed."""
    fields, (total, channels) = self._config.method, self._patches.shape(images)
    counting = self._patches.counting(images)
    number = len(counting)
    kept = max(1, round(fields.share * number))
    kept = min(kept, fields.most or kept)
    generator = np.random.default_rng(category_seed(task.seed, task.name))
    matrix = projection(channels, fields.projection, generator)
    first = int(generator.integers(number))
    gigabytes = 4e-9 * number * channels
    holds = matrix is None or gigabytes <= fields.host_gigabytes
    how = 'held in memory' if holds else 'computed twice, see method.host_gigabytes'
    size = f'{number:,} patches of {channels} numbers, {gigabytes:.2f} GB'
    print(f'Note: {task.name} has {size}, {how}.', flush=True)
    batches = self._look(f'{task.name}, patches', images, matrix)
    if not holds:
      batches = ((which, found._replace(rows=None)) for which, found in batches)
    found = jax.tree.map(lambda x: x.reshape(total, -1), collect(batches, len(images)))
    if number < total:
      found = jax.tree.map(lambda x: x[counting], found)
    compared = found.rows if matrix is None else found.projected
    with progress_bar(f'{task.name}, coreset', kept, unit='patch') as progress:

      def tell(picks: int) -> None:
        interrupt.raise_if_asked()
        progress.update(picks)

      chosen = np.sort(k_centres(compared, kept, first, tell))
    if holds:
      return Fitted({'memory': found.rows[chosen]}, {})
    name = f'{task.name}, patches of the coreset'
    memory = self._patches.choose(name, images, counting[chosen])
    return Fitted({'memory': memory}, {})

  def _embed(self, features: tuple[jax.Array, ...], matrix: jax.Array | None) -> '_Found':
    rows = self._patches(features)
    if matrix is None:
      return _Found(rows, None)
    return _Found(rows, jnp.matmul(rows, matrix, precision='highest'))

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """See `Method`; of a bounded coreset, which images enough fill."""
    most = self._config.method.most
    if not most:
      return None
    _, channels = self._patches.shape(np.empty((1, *canvas), np.uint8))
    return {'memory': jax.ShapeDtypeStruct((most, channels), np.float32)}

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
    """The distance of the most abnormal patch, re-weighted (equation 7 of the paper)."""
    distances = maps[0].reshape(maps[0].shape[0], -1)
    memory = jnp.asarray(params['memory'])
    neighbours = min(self._config.method.neighbours, memory.shape[0])
    if neighbours == 1:
      return jnp.max(distances, axis=1)
    found = self._patches(features)
    flat = found.reshape(*distances.shape, -1)
    # As a product, because ONNX has no gathering for each image that all runtimes know.
    most = np.arange(distances.shape[1]) == jnp.argmax(distances, axis=1)[:, None]
    queries = jnp.matmul(most[:, None].astype(flat.dtype), flat, precision='highest')[:, 0]
    return reweighted_distances(queries, memory, neighbours)


def projection(channels: int, number: int, generator: np.random.Generator) -> np.ndarray | None:
  """Of rows to fewer numbers, which keeps distances about as they are (Johnson-Lindenstrauss).

  Args:
    channels: C, the number of channels of a row.
    number: P, the number of channels after it; 0, or no fewer than C, keeps the rows as they
      are.
    generator: the random generator by which a Gaussian matrix is drawn.

  Returns:
    float32 [C, P], by which rows [N, C] are multiplied; None where they are kept.
  """
  if number == 0 or number >= channels:
    return None
  return generator.normal(0, number**-0.5, (channels, number)).astype(np.float32)


def reweighted_distances(queries: jax.Array, memory: jax.Array, neighbours: int) -> jax.Array:
  """(1 - softmax) d*: the distance to the nearest row, weighed by that row's neighbourhood.

  The softmax is that of the distances from the query to the b rows nearest to its nearest one,
  which is one of them, taken at that one.

  Args:
    queries: patches that are compared, floating [N, C].
    memory: rows of the memory, floating [M, C].
    neighbours: b, how many rows the softmax is over, at most M.

  Returns:
    [N].
  """
  distances, nearest = k_nearest(queries, memory, 1)
  _, around = k_nearest(memory[nearest[:, 0]], memory, neighbours)
  others = jnp.sqrt(jnp.sum((queries[:, None] - memory[around]) ** 2, axis=-1))
  here = distances[:, 0]
  weights = jax.nn.softmax(jnp.concatenate([here[:, None], others[:, 1:]], axis=1), axis=1)
  return (1 - weights[:, 0]) * here
