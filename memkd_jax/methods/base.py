"""The seam: what a family of detectors is to the rest of the package."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from memkd_jax.scoring import anomaly_map


@dataclasses.dataclass(frozen=True)
class Task:
  """One model that is to be fitted and scored.

  Attributes:
    name: the task's name, which its folder has as well, and which seeds it together with
      the seed.
    seed: the seed by which all that is random is drawn.
    train: names of the categories whose normal images are learned from.
    test: names of the categories that are scored.
    owners: int [N], of which of `train` each image that is learned from is; None where they
      are of one category.
  """

  name: str
  seed: int
  train: tuple[str, ...]
  test: tuple[str, ...]
  owners: np.ndarray | None = dataclasses.field(default=None, compare=False)

  @classmethod
  def of_category(cls, category: str, seed: int) -> 'Task':
    """One model for one category, the protocol's way."""
    return cls(category, seed, (category,), (category,))

  def of_images(self, rows: np.ndarray) -> 'Task':
    """The task with some of its images alone: int [n], which of them."""
    owners = None if self.owners is None else self.owners[rows]
    return dataclasses.replace(self, owners=owners)


class Fitted(NamedTuple):
  """What fitting leaves.

  Attributes:
    params: what `maps` takes: nested dicts of numpy arrays.
    diagnosis: JSON values on what was learned, which the evaluation shows beside what
      `diagnosed_maps` sees; empty where a method has nothing to say.
    unfolding: what a further training needs beside `params`, nested dicts of numpy arrays:
      it is kept with the model, and no scoring looks at it. None where there is nothing.
  """

  params: dict[str, Any]
  diagnosis: dict[str, Any]
  unfolding: dict[str, Any] | None = None


class Start(NamedTuple):
  """A trained model that a training goes on from.

  Attributes:
    params: see `Fitted`.
    unfolding: see `Fitted`.
    sha256: the digest of both.
    folder: the folder in which the model lies.
  """

  params: dict[str, Any]
  unfolding: dict[str, Any]
  sha256: str
  folder: Path


class Method(Protocol):
  """How one family learns what is normal from the features of a frozen teacher.

  A method is made by its module's `create(config, extractor, devices)`. All but `fit` is
  pure and can be traced: the same functions score in the evaluation, in a `Detector`, in an
  exported program and in the server.

  Attributes:
    name: the name in reports, for example 'MemKD'.
    stages: the teacher's stages that `maps` reads, of 1 to 4.
    diagnosed_stages: the teacher's stages that `diagnosed_maps` reads beyond those; () as a
      rule.
    notes: sentences that must stand beside the figures.
    warm_starts: whether `fit` can go on from a trained model; by default not.
    memorizes: whether images that were learned from are found again, so that their maps are 0
      and tell nothing of new ones; by default not.
  """

  name: str
  stages: tuple[int, ...]
  diagnosed_stages: tuple[int, ...]
  notes: list[str]
  warm_starts: bool = False
  memorizes: bool = False

  def fit(
    self, task: Task, images: np.ndarray, folder: Path, start: Start | None = None
  ) -> Fitted:
    """Learns from normal images; what takes minutes resumes where it was stopped.

    Args:
      task: the model to be fitted, with its name and seed.
      images: the canvases of the normal training images, uint8 [N, H, W, channels]: RGB, or
        with a fourth channel, 0 where a pixel does not count; of M pictures 4 M channels.
      folder: the task's folder, for checkpoints and logs.
      start: the model that it goes on from, if any; none unless `warm_starts`.

    Raises:
      UserError: the images or the config do not allow it.
    """
    ...

  def step_shapes(self, canvas: tuple[int, int, int]) -> tuple[Any, tuple[Any, ...]] | None:
    """The training step, for those who compile it without data; by default there is none.

    Args:
      canvas: (height, width, channels) of what is looked at, 3 channels or 4 a picture.

    Returns:
      (the pmapped step, shapes and dtypes of what it takes, leaves [P, ...]); None for a
      method that takes no steps.
    """
    return None

  def param_shapes(self, canvas: tuple[int, int, int]) -> Any | None:
    """Shapes and dtypes of `Fitted.params`, for those who compile `maps` without a model.

    Args:
      canvas: see `step_shapes`.

    Returns:
      The tree; None, as by default, where they are up to the number of training images.
    """
    return None

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """How abnormal each position is.

    Args:
      params: see `Fitted`.
      features: the teacher's stages 1 to `max(stages)`, [B, H_k, W_k, C_k].
      images: uint8 [B, H, W, channels], which the features are of.

    Returns:
      {stage: [B, H_k, W_k]}, float32 at least; `scoring.anomaly_map` combines them. A
      method with one map of its own gives {0: map}, on any grid.
    """
    ...

  def image_scores(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    combined: jax.Array,
  ) -> jax.Array:
    """How abnormal each image is; by default the highest value of its combined map.

    Args:
      params: see `Fitted`.
      features: see `maps`.
      maps: what `maps` gave, -inf where nothing of a position counts (see `data.framing`).
      combined: [B, H, W], the maps as one, upsampled and smoothed; -inf where nothing of a
        pixel counts.

    Returns:
      [B].
    """
    return anomaly_map.image_scores(combined)

  def diagnosed_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[dict[int, jax.Array], dict[str, Any]]:
    """`maps`, and what else there is to see of each image, in one pass; by default nothing.

    Args:
      params: see `Fitted`.
      features: the teacher's stages 1 to the highest of `stages` and `diagnosed_stages`,
        [B, H_k, W_k, C_k].
      images: uint8 [B, H, W, channels], which the features are of.

    Returns:
      (the maps, a tree of arrays [B, ...]).
    """
    return self.maps(params, features, images), {}
