"""Devices: the only file that knows pmap, replication, and padding to them.

Every collective names `AXIS`, so that a move to shard_map changes this file
alone. (`jax.pmap` is itself jit with shard_map inside since JAX 0.10.)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax.errors import UserError

AXIS = 'batch'


class Devices:
  """The devices of a run; state lives on each of them, batches are split over them."""

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    """Uses `devices`, or all local ones."""
    self._devices = list(devices or jax.local_devices())
    self._copy = jax.pmap(lambda _, x: x, in_axes=(0, None), devices=self._devices)

  def __len__(self) -> int:
    return len(self._devices)

  def free_memory(self) -> tuple[int, int]:
    """Free bytes of a device, and of the host; a CPU device has the host's."""
    host = _free_host_memory()
    statistics = self._devices[0].memory_stats() or {}
    if 'bytes_limit' not in statistics:
      return host // len(self), host
    return statistics['bytes_limit'] - statistics['bytes_in_use'], host

  def check_divide(self, number: int, field: str) -> None:
    """Raises UserError unless `number` things can be shared out equally."""
    if number % len(self):
      nearest = max(number // len(self), 1) * len(self)
      raise UserError(
        f'{field}={number} cannot be split equally over {len(self)} devices; use a '
        f'multiple of {len(self)}, for example --config.{field}={nearest}.'
      )

  def round_up(self, number: int) -> int:
    """The next multiple of the number of devices, for batches that are padded."""
    return -(-number // len(self)) * len(self)

  def map(self, function: Callable, donate: Sequence[int] = ()) -> Any:
    """Pmaps `function` with the axis name 'batch' over arguments stacked by device."""
    return jax.pmap(
      function, axis_name=AXIS, devices=self._devices, donate_argnums=tuple(donate)
    )

  def replicate(self, tree: Any) -> Any:
    """Copies a tree to every device: leaves [...] -> [D, ...]."""
    return self._copy(np.arange(len(self)), tree)

  def fetch(self, tree: Any) -> Any:
    """The first device's copy of a replicated tree, as numpy: [D, ...] -> [...]."""
    # Indexing the global array would gather all devices first. The copy makes
    # the result safe from the donation of its source.
    return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)

  def split(self, array: np.ndarray) -> np.ndarray:
    """Shares a full batch out: [B, ...] -> [D, B / D, ...]."""
    return array.reshape(len(self), -1, *array.shape[1:])

  def split_padded(self, array: np.ndarray, batch_size: int) -> np.ndarray:
    """As `split`, padded to `batch_size` by repeating the last entry."""
    padding = np.repeat(array[-1:], batch_size - len(array), axis=0)
    return self.split(np.concatenate([array, padding]))

  def join(self, array: Any, number: int) -> np.ndarray:
    """Undoes `split_padded`: [D, B / D, ...] -> [number, ...]."""
    array = np.asarray(array)
    return array.reshape(-1, *array.shape[2:])[:number]


def _free_host_memory() -> int:
  """Bytes that this process may still take; 0 where the system does not say."""
  try:
    lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    free = next(
      1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable')
    )
  except (OSError, StopIteration):
    return 0
  try:  # a container may have less
    group = Path('/sys/fs/cgroup')
    used = int((group / 'memory.current').read_text(encoding='ascii'))
    return min(free, int((group / 'memory.max').read_text(encoding='ascii')) - used)
  except (OSError, ValueError):  # 'max' where there is no limit
    return free
