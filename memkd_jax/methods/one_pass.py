"""What methods share that learn in one pass over the images, without taking steps."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import require
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.teachers.extractor import FeatureExtractor

_Features = tuple[jax.Array, ...]


def resolve_stages(config: ConfigDict) -> ConfigDict:
  """Checks `method.stages`, and puts them into their order, each once."""
  stages = config.method.stages
  require('method.stages', stages, len(stages) > 0, 'names at least one stage')
  config.method.stages = tuple(sorted(set(stages)))
  return config


def over_images(
  name: str,
  images: np.ndarray,
  extractor: FeatureExtractor,
  depth: int,
  function: Callable[[_Features], Any],
  devices: Devices,
  batch_size: int,
) -> Iterator[tuple[slice, Any]]:
  """Computes something of each image's features, a batch at a time, with a progress bar.

  Args:
    name: of the progress bar.
    images: uint8 [N, S, S, 3].
    extractor: the frozen teacher.
    depth: number of its stages that are computed.
    function: of the features [B, H_k, W_k, C_k]; a tree of arrays [B, ...].
    devices: that share out each batch.
    batch_size: images of a batch.

  Yields:
    Which images a batch is of, and what the function gave, a tree of numpy arrays [b, ...].

  Raises:
    interrupt.Interrupted: a signal came.
  """
  size = devices.round_up(batch_size)
  compute = devices.map(lambda params, batch: function(extractor(params, batch, depth)))
  teacher_params = devices.replicate(extractor.params)
  with progress_bar(name, len(images)) as progress:
    for begin in range(0, len(images), size):
      interrupt.raise_if_asked()
      batch = images[begin : begin + size]
      number = len(batch)
      found = compute(teacher_params, devices.pad_shard(batch, size))
      yield (
        slice(begin, begin + number),
        jax.tree.map(lambda x, n=number: devices.unshard(x, n), found),
      )
      progress.update(number)
