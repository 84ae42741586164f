"""PaDiM (Defard et al., ICPR 2021): a Gaussian of the teacher's features at each position.

Stages 1 to 3 side by side on the grid of stage 1; some of their channels are drawn by seed.
Mean and covariance are those of the training images at each position, so parts must lie alike
in all images. A position is as abnormal as its Mahalanobis distance from its Gaussian.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.linalg import solve_triangular

from memkd_jax.config import Field
from memkd_jax.data.sampling import category_seed
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.one_pass import ImagePass, collect, resolve_stages
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor

# The authors' numbers of channels.
_CHANNELS = {'resnet18': 100, 'resnet34': 100, 'resnet50': 550, 'wide_resnet50_2': 550}
_POSITIONS = 64  # whose covariances are inverted at a time
FIELDS = (
  Field(
    'method.stages', (1, 2, 3), "The teacher's stages that are put together", choices=(1, 2, 3)
  ),
  Field(
    'method.channels',
    0,
    'Number of channels that are drawn; 0 is 100 for resnet18 and resnet34, else 550, as far '
    'as there are so many',
    high=2**14,
  ),
  Field(
    'method.regularization',
    0.01,
    'What is added to the diagonal of each covariance',
    high=1e6,
    open_low=True,
  ),
)


def resolve(config: ConfigDict) -> ConfigDict:
  """Checks what no field can check by itself."""
  return resolve_stages(config)


def create(config: ConfigDict, extractor: FeatureExtractor, devices: Devices) -> 'PaDiM':
  """Makes the method of a resolved config."""
  return PaDiM(config, extractor, devices)


class PaDiM(Method):
  """A Gaussian at each position; attributes as in `Method`."""

  name = 'PaDiM'
  diagnosed_stages = ()

  def __init__(self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices):
    """See `create`."""
    self.stages = tuple(config.method.stages)
    self.notes: list[str] = []
    self._config, self._extractor = config, extractor
    depth, size = max(self.stages), config.eval.batch_size
    self._look = ImagePass(extractor, depth, self._embed, devices, size)

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Means and covariances in one pass over the images, in float64 on the host."""
    channels = self._draw(task, images.shape[1:3])
    found = collect(self._look(task.name, images, channels), len(images))
    found = found.reshape(len(images), -1, len(channels))
    mean = found.mean(axis=0, dtype=np.float64)
    whitening = np.empty((len(mean), len(channels), len(channels)), np.float32)
    for begin in range(0, len(mean), _POSITIONS):
      interrupt.raise_if_asked()
      part = slice(begin, begin + _POSITIONS)
      centred = np.swapaxes(found[:, part] - mean[part], 0, 1)
      whitening[part] = _whitening(centred, self._config.method.regularization)
    return Fitted(
      {'channels': channels, 'mean': mean.astype(np.float32), 'whitening': whitening}, {}
    )

  def _draw(self, task: Task, size: tuple[int, ...]) -> np.ndarray:
    """Which channels of all stages together are kept, ascending."""
    shapes = self._extractor.shapes(size, max(self.stages))
    total = sum(shapes[k - 1].shape[-1] for k in self.stages)
    wanted = self._config.method.channels or _CHANNELS.get(self._config.model.backbone, total)
    generator = np.random.default_rng(category_seed(task.seed, task.name))
    chosen = generator.choice(total, min(wanted, total), replace=False)
    return np.sort(chosen).astype(np.int32)

  def _embed(self, features: tuple[jax.Array, ...], channels: Any) -> jax.Array:
    """[B, H, W, D] on the grid of the first stage, float32."""
    height = features[self.stages[0] - 1].shape[1]
    grids = []
    for k in self.stages:
      grid = features[k - 1].astype(jnp.float32)
      times = height // grid.shape[1]  # nearest, as the authors put patches onto a grid
      grids.append(jnp.repeat(jnp.repeat(grid, times, axis=1), times, axis=2))
    return jnp.take(jnp.concatenate(grids, axis=-1), jnp.asarray(channels), axis=-1)

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{0: Mahalanobis distance at each position}."""
    found = self._embed(features, params['channels'])
    batch, height, width, channels = found.shape
    centred = found.reshape(batch, height * width, channels) - params['mean']
    # A matrix product for each position, of all images of the batch with its whitening.
    white = jnp.matmul(
      jnp.swapaxes(centred, 0, 1), jnp.asarray(params['whitening']), precision='highest'
    )
    distances = jnp.sqrt(jnp.sum(white**2, axis=-1))
    return {0: jnp.swapaxes(distances, 0, 1).reshape(batch, height, width)}


def _whitening(centred: np.ndarray, regularization: float) -> np.ndarray:
  """W with |x W|^2 = x C^-1 x of the sample covariance C, its diagonal raised.

  C = L L^T, and W = L^-T, so that scoring is a product and no triangular solve.

  Args:
    centred: [P, n, d], at each position samples less their mean.
    regularization: the number that is added to the diagonals.

  Returns:
    [P, d, d], upper triangular.
  """
  number, channels = centred.shape[1:]
  covariance = np.matmul(np.swapaxes(centred, 1, 2), centred) / max(number - 1, 1)
  lower = np.linalg.cholesky(covariance + regularization * np.eye(channels))
  identity = np.eye(channels)
  return np.stack([solve_triangular(x, identity, lower=True).T for x in lower])
