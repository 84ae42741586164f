"""What methods share that learn in one pass over the images, without taking steps."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import require
from memkd_jax.data.prefetch import Prefetch
from memkd_jax.files.stored_rows import is_stored
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.teachers.extractor import FeatureExtractor


def resolve_stages(config: ConfigDict) -> ConfigDict:
  """Checks `method.stages`, and puts them into their order, each once."""
  stages = config.method.stages
  require('method.stages', stages, len(stages) > 0, 'names at least one stage')
  config.method.stages = tuple(sorted(set(stages)))
  return config


def collect(
  batches: Iterable[tuple[slice, Any]], number: int, empty: Callable[..., Any] = np.empty
) -> Any:
  """Puts what an `ImagePass` yields of all images together, without holding it twice.

  Args:
    batches: slices that say which images, and a tree of numpy arrays [b, ...] of them.
    number: N, the number of all images.
    empty: `(shape, dtype)`, makes an array to be filled, perhaps one of a file.

  Returns:
    A tree of numpy arrays [N, ...].
  """
  whole: Any = None
  for which, found in batches:
    if whole is None:
      whole = jax.tree.map(lambda x: empty((number, *x.shape[1:]), x.dtype), found)
    for array, part in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
      array[which] = part
  return whole


def over_batches(
  devices: Devices,
  name: str,
  rows: Any,
  batch_size: int,
  step: Callable[..., Any],
  *others: Any,
) -> Iterator[tuple[slice, Any]]:
  """Calls `step(batch, *others)` with every batch of some rows, with a progress bar.

  Args:
    devices: the devices that share out every batch.
    name: what the progress bar is called.
    rows: a tree of arrays [N, ...], images or their features; those of a file are read ahead.
    batch_size: rows of a batch; rounded up to the number of devices.
    step: pmapped, gives a tree of arrays [B, ...].
    others: what the step takes beside the batch, replicated.

  Yields:
    Which rows a batch is of, and what the step gave, a tree of numpy arrays [b, ...].

  Raises:
    interrupt.Interrupted: a signal came.
  """
  number, batch_size = len(jax.tree.leaves(rows)[0]), devices.round_up(batch_size)
  batches = -(-number // batch_size)

  def read(k: int) -> tuple[slice, Any]:
    which = slice(k * batch_size, min((k + 1) * batch_size, number))
    return which, jax.tree.map(lambda x: devices.pad_shard(x[which], batch_size), rows)

  stored = any(map(is_stored, jax.tree.leaves(rows)))
  ahead: Any = Prefetch(read, batches) if stored else contextlib.nullcontext(read)
  with progress_bar(name, number) as progress, ahead as take:
    for k in range(batches):
      interrupt.raise_if_asked()
      which, batch = take(k)
      size = which.stop - which.start
      unpad = functools.partial(devices.unshard, number=size)
      yield which, jax.tree.map(unpad, step(devices.put(batch), *others))
      progress.update(size)


class ImagePass:
  """Computes something of each image's features, a batch at a time, with a progress bar.

  Compiled once for any number of images, and for all tasks.
  """

  def __init__(
    self,
    extractor: FeatureExtractor,
    depth: int,
    function: Callable[..., Any],
    devices: Devices,
    batch_size: int,
  ):
    """Compiles nothing yet.

    Args:
      extractor: the frozen teacher, which gives the features.
      depth: number of its stages that are computed.
      function: `(features, *constants)`, the features [B, H_k, W_k, C_k]; gives a tree of
        arrays [B, ...].
      devices: the devices that share out every batch.
      batch_size: number of images in a batch.
    """
    self._extractor, self._depth, self._function = extractor, depth, function
    self._devices, self._size = devices, batch_size

  def __call__(
    self, name: str, images: np.ndarray, *constants: Any
  ) -> Iterator[tuple[slice, Any]]:
    """Goes over images.

    Args:
      name: what the progress bar is called.
      images: the images, uint8 [N, H, W, channels].
      constants: what the function takes beside the features, trees of arrays.

    Yields:
      Which images a batch is of, and what the function gave, a tree of numpy arrays [b, ...].

    Raises:
      interrupt.Interrupted: a signal came.
    """
    constants = self._devices.replicate(constants)

    def compute() -> tuple[np.ndarray, ...]:
      batches = self._batches('teacher', images, self._look, self._teacher)
      return collect(batches, len(images))  # type: ignore[no-any-return]

    features = self._extractor.kept_features(images, self._depth, self._devices, compute)
    if features is None:
      yield from self._batches(name, images, self._of_images, self._teacher, *constants)
    else:
      yield from self._batches(name, features, self._of_features, *constants)

  def _batches(
    self, name: str, rows: Any, step: Callable[..., Any], *others: Any
  ) -> Iterator[tuple[slice, Any]]:
    return over_batches(self._devices, name, rows, self._size, step, *others)

  @functools.cached_property
  def _teacher(self) -> Any:
    return self._devices.replicate(self._extractor.params)

  @functools.cached_property
  def _look(self) -> Callable[..., Any]:
    """Pmapped `(images, teacher_params) -> features`."""
    return self._devices.map(  # type: ignore[no-any-return]
      lambda images, params: self._extractor(params, images, self._depth)
    )

  @functools.cached_property
  def _of_features(self) -> Callable[..., Any]:
    """Pmapped `(features, *constants)`."""
    return self._devices.map(self._function)  # type: ignore[no-any-return]

  @functools.cached_property
  def _of_images(self) -> Callable[..., Any]:
    """Pmapped `(images, teacher_params, *constants)`, without features in between."""
    return self._devices.map(  # type: ignore[no-any-return]
      lambda images, params, *constants: self._function(
        self._extractor(params, images, self._depth), *constants
      )
    )
