"""From images to maps and scores: the one program of all that scores."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from memkd_jax.scoring import normalization
from memkd_jax.scoring.anomaly_map import combine_maps, seen_positions, top_scores


class Scores(Protocol):
  """What the pipeline needs of a method; see `methods.base.Method`."""

  name: str
  stages: tuple[int, ...]
  diagnosed_stages: tuple[int, ...]

  def maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> dict[int, jax.Array]:
    """{stage: [B, H_k, W_k]}."""

  def image_scores(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    combined: jax.Array,
  ) -> jax.Array:
    """[B]."""

  def diagnosed_maps(
    self, params: Any, features: tuple[jax.Array, ...], images: jax.Array
  ) -> tuple[dict[int, jax.Array], dict[str, Any]]:
    """The maps, and a tree of arrays [B, ...]."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """Extractor, method, then one map and one score an image: pure functions to compile.

  Attributes:
    extractor: `(teacher_params, uint8 images [B, H, W, 3], number of stages) -> features`.
    method: gives the stages' maps and the image scores.
    combine: 'sum', 'product' or 'max' of the stages' maps, or of those of several pictures.
    align_corners: whether the bilinear upsampling to the side S maps the first and last samples
      onto each other, see `ops.resampling`.
    sigma: standard deviation of the Gaussian in pixels of the map.
    image_score: 'max' for the method's own score, as a rule the map's highest value; 'top'
      for the mean of the map's highest hundredth.
    normalize: whether maps are normalised before they are combined, see `normalization`. A
      score that a method makes of its maps itself is made of those that it gave.
  """

  extractor: Callable[[Any, jax.Array, int], tuple[jax.Array, ...]]
  method: Scores
  combine: str = 'sum'
  align_corners: bool = True
  sigma: float = 4.0
  image_score: str = 'max'
  normalize: str = 'none'

  def stage_maps(
    self, params: Any, teacher_params: Any, images: jax.Array
  ) -> dict[int, jax.Array]:
    """What the method gives, before anything is done with it: {k: [B, H_k, W_k]}.

    Args:
      params: what the method has learned, a tree of arrays.
      teacher_params: the extractor's parameters, a tree of arrays.
      images: the images, uint8 [B, H, W, channels].
    """
    features = self.extractor(teacher_params, images, max(self.method.stages))
    return self.method.maps(params, features, images)

  def score(
    self,
    params: Any,
    teacher_params: Any,
    images: jax.Array,
    statistics: normalization.Statistics | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Anomaly maps and image scores.

    Args:
      params: what the method has learned, a tree of arrays.
      teacher_params: the extractor's parameters, a tree of arrays.
      images: uint8 [B, H, W, 3]; or with a fourth channel, 0 where a pixel does not count; or
        so several pictures of an object, [B, H, W, 4 M].
      statistics: mean and spread of normal images, where maps are normalised.

    Returns:
      (maps [B, H, W], scores [B]), not clipped.
    """
    features = self.extractor(teacher_params, images, max(self.method.stages))
    maps = self.method.maps(params, features, images)
    return self._finish(params, features, maps, images, statistics)

  def score_and_diagnose(
    self,
    params: Any,
    teacher_params: Any,
    images: jax.Array,
    statistics: normalization.Statistics | None = None,
  ) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """`score`, and what the method has to say of each image, in one pass.

    Args:
      params: what the method has learned, a tree of arrays.
      teacher_params: the extractor's parameters, a tree of arrays.
      images: the images, uint8 [B, H, W, channels].
      statistics: see `score`.

    Returns:
      (maps [B, H, W], scores [B], diagnosis: a tree of arrays [B, ...]).
    """
    depth = max(self.method.stages + self.method.diagnosed_stages)
    features = self.extractor(teacher_params, images, depth)
    maps, diagnosis = self.method.diagnosed_maps(params, features, images)
    return *self._finish(params, features, maps, images, statistics), diagnosis

  def _finish(
    self,
    params: Any,
    features: tuple[jax.Array, ...],
    maps: dict[int, jax.Array],
    images: jax.Array,
    statistics: normalization.Statistics | None,
  ) -> tuple[jax.Array, jax.Array]:
    shown = maps
    if self.normalize != 'none':
      assert statistics is not None, 'of a model whose maps are normalised'
      shown = normalization.normalize(maps, statistics)
    _, height, width, channels = images.shape
    if channels > 4:  # of several pictures each says nothing where it shows nothing
      shown = {
        k: jnp.where(seen_positions(images[..., 4 * k + 3] > 0, map_.shape[1:]), map_, 0)
        for k, map_ in shown.items()
      }
    combined = combine_maps(
      shown,
      (height, width),
      combine=self.combine,
      align_corners=self.align_corners,
      sigma=self.sigma,
    )
    counted, seen = combined, None
    if channels != 3:  # of what does not count no score is made
      counts = [images[..., k] > 0 for k in range(3, channels, 4)]
      seen = functools.reduce(jnp.logical_or, counts)
      counted = jnp.where(seen, combined, -jnp.inf)
      maps = {
        k: jnp.where(seen_positions(seen, map_.shape[1:]), map_, -jnp.inf)
        for k, map_ in maps.items()
      }
    if self.image_score == 'top':
      return combined, top_scores(counted, seen)
    return combined, self.method.image_scores(params, features, maps, counted)
