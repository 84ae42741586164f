"""Where batches are drawn from: images, and teacher features computed once.

There is no augmentation, so the teacher's features of the training images are
constants. Images and features live on the device where they fit, and batches are
gathered there; the host sends indices. What is in a file is read ahead of the steps.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from memkd_jax.errors import UserError
from memkd_jax.files.stored_rows import is_stored
from memkd_jax.runtime.devices import Devices
from memkd_jax.training.step import Batch

CACHES = ('auto', 'device', 'host', 'disk', 'off')
# Of the memory that is free: training needs its own, and copying doubles for a while.
_SHARE = 0.25
_OF_ROOM = 0.5  # of the disk, where nobody has asked for it


class FeatureCache:
  """The training images of a task, and perhaps the teacher's features of them.

  Attributes:
    is_stored: whether a batch is read from a file.
  """

  def __init__(
    self,
    devices: Devices,
    images: np.ndarray,
    features: Sequence[np.ndarray] | None,
    place: str,
  ):
    """Puts everything where it is to be.

    Args:
      devices: the devices that batches are drawn for.
      images: the images, uint8 [N, H, W, channels], as a rule those of a training.
      features: the teacher's stages, [N, H_k, W_k, C_k] each, or None.
      place: 'host' for the host's memory, else the devices'. What is of a file stays there.
    """
    self._devices = devices
    self._number = len(images)
    data = Batch(images, None if features is None else tuple(features))
    self.is_stored = any(map(is_stored, jax.tree.leaves(data)))
    on_host = place == 'host' or self.is_stored
    self._on_host = data if on_host else None
    self._on_device = None if on_host else devices.replicate(data)
    # A program of its own: the number of images must not be compiled into the step.
    self._gather = devices.map(_take)

  def draw(self, indices: np.ndarray) -> Batch:
    """The batch of some images, on the devices that share it: leaves [P, B / D, ...]."""
    shares = self._devices.shard(indices)
    batch: Batch
    if self._on_host is not None:
      batch = self._devices.put(_take(self._on_host, shares))
    else:
      batch = self._gather(self._on_device, self._devices.put(shares))
    return batch

  def batches(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """All images once, in their order.

    Args:
      batch_size: number of images of a batch, of all devices together.

    Yields:
      A batch, filled up by repeating the last image, and how many of it count.
    """
    batch_size = self._devices.round_up(batch_size)
    for begin in range(0, self._number, batch_size):
      indices = np.minimum(np.arange(begin, begin + batch_size), self._number - 1)
      yield self.draw(indices), min(batch_size, self._number - begin)


def build_cache(
  devices: Devices,
  compute: Callable[[], Sequence[np.ndarray]],
  images: np.ndarray,
  size: int,
  *,
  wanted: str,
  store: Callable[[], Sequence[np.ndarray]] | None = None,
  room: int = 0,
) -> FeatureCache:
  """Computes the teacher's features where they fit, and says where they are kept.

  Args:
    devices: the devices that the batches are drawn for.
    compute: gives the teacher's features of the images, [N, H_k, W_k, C_k] each.
    images: uint8 [N, H, W, channels], the training images.
    size: bytes of the features.
    wanted: where features are to be kept, one of `CACHES`.
    store: gives the same features as `compute`, in a file; None where there is no folder for
      it.
    room: bytes that the file may take.

  Raises:
    UserError: the place asked for is too small.
  """
  device, host = devices.free_memory()
  if is_stored(images):  # with which the features are read
    if wanted == 'device':
      raise UserError(
        '--config.train.cache_features=device: the images are on the disk '
        '(data.memory); use auto, host, disk, or off.'
      )
    device = 0
  place = choose_place(wanted, size, device, host, room if store else None)
  features: Sequence[np.ndarray] | None = None
  if place == 'off':
    print("Note: the teacher's features are computed at every step.", flush=True)
  else:
    print(
      f"Note: the teacher's features are kept on the {place}: {size / 1e6:,.0f} MB.",
      flush=True,
    )
    features = store() if store and place == 'disk' else compute()
  return FeatureCache(devices, images, features, place)


def choose_place(
  wanted: str, size: int, device_memory: int, host_memory: int, room: int | None = None
) -> str:
  """Decides where the teacher's features are kept; it changes no figure.

  Args:
    wanted: one of `CACHES`; 'auto' takes the device, else the host, else the disk, else 'off'.
    size: bytes of the features.
    device_memory: free bytes of a device.
    host_memory: free bytes of the host.
    room: bytes that a file may take; None where reading one is not expected to be faster.

  Returns:
    'device', 'host', 'disk' or 'off'.

  Raises:
    UserError: the place asked for is too small.
  """
  free = {'device': device_memory, 'host': host_memory}
  if wanted == 'auto':
    found = next((p for p, memory in free.items() if size <= _SHARE * memory), 'off')
    fits = room is not None and size <= _OF_ROOM * room
    return 'disk' if found == 'off' and fits else found
  if wanted in free and size > free[wanted]:
    raise UserError(
      f"--config.train.cache_features={wanted}: the teacher's features need {size / 1e6:,.0f} "
      f'MB and {free[wanted] / 1e6:,.0f} MB are free; use auto, or off.'
    )
  return wanted


def _take(data: Batch, indices: Any) -> Batch:
  return jax.tree.map(functools.partial(_rows, indices), data)


def _rows(indices: Any, array: Any) -> Any:
  return array[indices]
