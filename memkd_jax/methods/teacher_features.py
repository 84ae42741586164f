"""The teacher's features in a training by gradient descent: of all images, and of a batch."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.data.image_store import Scratch, scratch_of
from memkd_jax.files.digest import images_digest
from memkd_jax.methods.one_pass import collect, over_batches
from memkd_jax.runtime import hosts
from memkd_jax.runtime.devices import Devices, backend
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training.feature_cache import FeatureCache, build_cache
from memkd_jax.training.step import Batch


class TeacherFeatures:
  """What a training sees of the frozen teacher, whether it is computed at once or in a step."""

  def __init__(
    self, config: ConfigDict, extractor: FeatureExtractor, devices: Devices, depth: int
  ):
    """Compiles nothing yet.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      extractor: the frozen teacher, whose features are looked at.
      devices: the devices that share out every batch.
      depth: the number of the teacher's stages that are looked at.
    """
    self._config, self._extractor, self._devices = config, extractor, devices
    self._depth = depth
    self._kept: tuple[str, FeatureCache] | None = None

  def cache(self, images: np.ndarray) -> FeatureCache:
    """The training images with the teacher's features; several seeds share them.

    Args:
      images: the training images, uint8 [N, H, W, channels].
    """
    digest = images_digest(images)
    if self._kept is not None and self._kept[0] == digest:
      return self._kept[1]
    self._kept = None  # before others take memory

    def compute() -> tuple[np.ndarray, ...]:
      return self._compute_features(images)

    def store(scratch: Scratch) -> tuple[np.ndarray, ...]:
      what = f"the teacher's features of {len(images):,} images"
      field = 'train.cache_features=disk'
      with hosts.raise_together():  # before the others wait for this one's share of a batch
        scratch.check(size, what, field)
      empty = functools.partial(scratch.array, what=what, field=field)
      return self._compute_features(images, empty)

    size = self._extractor.feature_bytes(images, self._depth)
    scratch, room = self._disk_for_features(), 0
    if scratch is not None:
      with hosts.raise_together():
        room = scratch.room()
      room = min(hosts.exchange(room))
    cache = build_cache(
      self._devices,
      lambda: (
        self._extractor.kept_features(images, self._depth, self._devices, compute) or compute()
      ),
      images,
      size,
      wanted=self._config.train.cache_features,
      store=None if scratch is None else functools.partial(store, scratch),
      room=room,
    )
    if len(self._config.seeds) > 1:
      self._kept = digest, cache
    return cache

  def _disk_for_features(self) -> Scratch | None:
    """The folder for features on the disk, where they are wanted or expected to be faster."""
    place, memory = self._config.train.cache_features, self._config.data.get('memory', 'host')
    # An accelerator computes them about as fast as a disk gives them.
    faster = place == 'auto' and memory != 'host' and backend() == 'cpu'
    if not faster and place != 'disk':
      return None
    return self._extractor.scratch or scratch_of(self._config.data, Path(tempfile.gettempdir()))

  def of_batch(self, params: Any, batch: Batch, stages: int) -> tuple[jax.Array, ...]:
    """The teacher's features of a batch, from the cache where it has them.

    Args:
      params: the extractor's parameters, a tree of arrays.
      batch: a device's share of a batch.
      stages: the number of stages that are computed where they are not known.

    Returns:
      As the extractor gives them: [B, H_k, W_k, C_k], of M pictures [B M, H_k, W_k, C_k].
    """
    if batch.features is None:
      return self._extractor(params, batch.images, stages)
    # Of several pictures the cache has [B, M, H_k, W_k, C_k].
    known = (f.reshape(-1, *f.shape[-3:]) for f in batch.features)
    return tuple(f.astype(self._extractor.dtype) for f in known)

  def shapes(self, canvas: tuple[int, int, int]) -> tuple[jax.ShapeDtypeStruct, ...] | None:
    """Shapes and dtypes of one image's features in a batch; None where they are not kept.

    Args:
      canvas: (height, width, channels) of an image.
    """
    if self._config.train.cache_features == 'off':
      return None
    image = jax.ShapeDtypeStruct((1, *canvas), np.uint8)
    found: tuple[jax.ShapeDtypeStruct, ...] = jax.eval_shape(
      self._look, image, self._extractor.params
    )
    return found

  @functools.cached_property
  def params(self) -> Any:
    """The extractor's parameters on every device."""
    return self._devices.replicate(self._extractor.params)

  @functools.cached_property
  def _step(self) -> Callable[..., Any]:
    """Pmapped `_look`."""
    return self._devices.map(self._look)  # type: ignore[no-any-return]

  def _look(self, images: jax.Array, params: Any) -> tuple[jax.Array, ...]:
    """The teacher's features of all stages that a step needs.

    A row an image, so that they can be drawn by its number: of M pictures [B, M, H, W, C].
    """
    found = self._extractor(params, images, self._depth)
    if images.shape[-1] <= 4:
      return found
    return tuple(x.reshape(len(images), -1, *x.shape[1:]) for x in found)

  def _compute_features(
    self, images: np.ndarray, empty: Callable[..., Any] = np.empty
  ) -> tuple[np.ndarray, ...]:
    """The teacher's features of all images, [N, H_k, W_k, C_k] each; see `_step`."""
    step, size = self._step, self._config.train.batch_size
    batches = over_batches(self._devices, 'teacher', images, size, step, self.params)
    return collect(batches, len(images), empty)  # type: ignore[no-any-return]

  def bad_stage(self, images: np.ndarray) -> tuple[str, str] | None:
    """Whether the teacher gave anything that is not finite: what, and the remedy."""
    for stage, values in enumerate(self._compute_features(images), start=1):
      if not np.isfinite(np.asarray(values, np.float32)).all():
        source = self._config.model.teacher_weights
        return f"the teacher's stage {stage}", f'Check {source} and the machine.'
    return None
