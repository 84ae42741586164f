"""What a `feature_cache.FeatureCache` would draw, as shapes: for steps that are not run."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memkd_jax.runtime.devices import Devices
from memkd_jax.training.step import Batch


class FeatureShapes:
  """The shapes of batches, and perhaps of the teacher's features of them."""

  def __init__(self, devices: Devices, canvas: Sequence[int], features: Sequence[Any] | None):
    """Takes the shapes of one image.

    Args:
      devices: the devices that batches are drawn for.
      canvas: (height, width, channels) of an image.
      features: shapes and dtypes of one image's stages, [1, ...] each; None where a step
        computes them.
    """
    self._devices = devices
    image = jax.ShapeDtypeStruct((1, *canvas), np.uint8)
    self._one = Batch(image, None if features is None else tuple(features))

  def draw(self, indices: np.ndarray) -> Batch:
    """Shapes of the batch of some images: leaves [P, B / D, ...]."""
    number = len(indices) // len(self._devices)
    of_device: Any = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype), self._one
    )
    batch: Batch = self._devices.stacked(of_device)
    return batch
