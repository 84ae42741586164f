"""Devices, and how arrays come to them and back: the only file that knows pmap.

Every collective names `AXIS`, so that a move to shard_map changes this file alone.
(`jax.pmap` is itself jit with shard_map inside since JAX 0.10.)
"""

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts
from memkd_jax.runtime.memory import free_host_memory

AXIS = 'batch'


def backend() -> str:
  """The kind of device that JAX computes on: 'cpu', 'gpu' or 'tpu'.

  To be asked before anything else of JAX, whose own errors here are no sentences.

  Raises:
    UserError: there is no device of the kind that the environment asks for.
  """
  try:
    return jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # the latter where a plugin is missing
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    if not asked:
      raise UserError(f'JAX finds no device to compute on ({_first_line(error)}).') from error
    raise UserError(
      f'JAX finds no device for JAX_PLATFORMS={asked}; set JAX_PLATFORMS=cpu to compute on the '
      "CPU, or install JAX's package for that device."
    ) from error


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')


def explicit_transfers() -> AbstractContextManager[None]:
  """A context in which nothing moves between host and devices unless it is asked to.

  `Devices.put`, `replicate`, `unreplicate` and `unshard` ask; numpy arrays that are given to a
  compiled function do not, nor do operations of `jax.numpy` outside of one: JAX raises. It is
  for the calling thread alone.
  """
  return jax.transfer_guard('disallow')  # type: ignore[no-any-return]


class Devices:
  """The devices of a run; state lives on each of them, batches are split over them.

  In shapes, D is the number of devices in all processes and P the number of this process's
  own: what `map` takes and returns is stacked over those. P = D where there is one process.

  Attributes:
    sharing: how many such groups work at once on this host, and share its memory.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None, sharing: int = 1):
    """Takes the devices, in any order.

    Args:
      devices: equally many of each process; all devices of all processes where None.
      sharing: how many such groups work at once on this host, and share its memory.
    """
    self.sharing = sharing
    # By process, so that the rows of one process lie side by side in a batch.
    self._devices = sorted(devices or jax.devices(), key=lambda d: d.process_index)
    owners = [device.process_index for device in self._devices]
    begin = owners.index(jax.process_index())
    self._rows = slice(begin, begin + owners.count(jax.process_index()))
    self._mine = self._devices[self._rows]
    self._copy = jax.pmap(lambda _, x: x, in_axes=(0, None), devices=self._devices)
    # As pmap itself would place the arguments of this process.
    self._placed = NamedSharding(Mesh(np.array(self._mine), (AXIS,)), PartitionSpec(AXIS))

  def __len__(self) -> int:
    return len(self._devices)

  @property
  def local(self) -> list[jax.Device]:
    """The devices of this process."""
    return list(self._mine)

  @property
  def first(self) -> bool:
    """Whether this process's first device is among them."""
    return jax.local_devices()[0] in self._mine

  def free_memory(self) -> tuple[int, int]:
    """How much memory is left, each the least of all processes.

    Returns:
      Free bytes of a device, and of the host. A CPU device has its share of the host's;
      processes on one host share the host's.
    """
    host = free_host_memory() // self.sharing
    statistics = self._mine[0].memory_stats() or {}
    device = host * self.sharing // jax.local_device_count()
    if 'bytes_limit' in statistics:
      device = statistics['bytes_limit'] - statistics['bytes_in_use']
    known = hosts.exchange([platform.node(), device, host])
    names = [name for name, _, _ in known]
    return (
      min(device for _, device, _ in known),
      min(host // names.count(name) for name, _, host in known),
    )

  def memory_use(self) -> dict[str, int]:
    """Bytes that are taken of a device's memory, the most of this process's devices.

    Returns:
      {'bytes_in_use': now, 'peak_bytes_in_use': the most since the process began}, without
      those that the backend does not tell; a CPU tells nothing.
    """
    known = [device.memory_stats() or {} for device in self._mine]
    return {
      name: max(statistics[name] for statistics in known)
      for name in ('bytes_in_use', 'peak_bytes_in_use')
      if all(name in statistics for statistics in known)
    }

  def check_divide(self, number: int, field: str) -> None:
    """Checks that something can be shared out equally to the devices.

    Args:
      number: number of what is shared out.
      field: the config's field that says so, for the error.

    Raises:
      UserError: the number of devices does not divide it.
    """
    if number % len(self):
      below = number // len(self) * len(self)
      sizes = [str(size) for size in (below, below + len(self)) if size]
      raise UserError(
        f'{field}={number} cannot be split equally over {len(self)} devices; use a '
        f'multiple of {len(self)}, for example --config.{field}={" or ".join(sizes)}.'
      )

  def round_up(self, number: int) -> int:
    """The least multiple of the number of devices that is not below `number`."""
    return -(-number // len(self)) * len(self)

  def map(self, function: Callable, donate: Sequence[int] = ()) -> Any:
    """A function that runs on every device at once.

    Args:
      function: a function of one device, from trees to a tree; it may use collectives over
        `AXIS`.
      donate: indices of the arguments whose memory the results may take.

    Returns:
      The function of trees that are stacked by device, leaves [P, ...].
    """
    return jax.pmap(
      function, axis_name=AXIS, devices=self._devices, donate_argnums=tuple(donate)
    )

  def replicate(self, tree: Any) -> Any:
    """Copies a tree to every device: leaves [...] -> [P, ...]."""
    with jax.transfer_guard('allow'):  # it is asked for, and pmap knows no other way
      return self._copy(np.arange(len(self._mine)), tree)

  def put(self, tree: Any) -> Any:
    """Brings what `map` takes to the devices of this process: leaves [P, ...].

    Leaves that are there already stay as they are.
    """
    return jax.tree.map(
      lambda x: x if isinstance(x, jax.Array) else jax.device_put(x, self._placed), tree
    )

  def stacked(self, tree: Any) -> Any:
    """Shapes of what `replicate` makes of a tree of arrays or shapes: leaves [P, ...]."""
    number = len(self._mine)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype), tree)

  def lower(self, mapped: Any, arguments: Sequence[Any], platform: str | None = None) -> Any:
    """Lowers what `map` gave, without running it.

    Args:
      mapped: the mapped function, as `map` gives it.
      arguments: trees of arrays or of their shapes, leaves [P, ...].
      platform: name of the platform that it is lowered for; that of the devices if None. For
        another one it can be looked at, and not compiled.

    Returns:
      A `jax.stages.Lowered`.
    """
    if platform is None:
      return mapped.lower(*arguments)
    traced = jax.jit(lambda *given: mapped(*given)).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,))

  def unreplicate(self, tree: Any) -> Any:
    """Copies a replicated tree from one device to numpy: leaves [P, ...] -> [...]."""
    device = self._mine[0]

    # Indexing the global array would gather all devices first. The copy makes the result
    # safe from the donation of its source.
    def copied(array: jax.Array) -> np.ndarray:
      here = next(shard for shard in array.addressable_shards if shard.device == device)
      return np.array(jax.device_get(here.data))[0]

    return jax.tree.map(copied, tree)

  def is_ready(self, tree: Any) -> bool:
    """Whether all of a tree has been computed; False where that is not known."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(tree))

  def shard(self, array: np.ndarray) -> np.ndarray:
    """The share of this process in a full batch: [B, ...] -> [P, B / D, ...]."""
    return array.reshape(len(self), -1, *array.shape[1:])[self._rows]

  def pad_shard(self, array: np.ndarray, batch_size: int) -> np.ndarray:
    """As `shard`, padded to `batch_size` by repeating the last entry."""
    padding = np.repeat(array[-1:], batch_size - len(array), axis=0)
    return self.shard(np.concatenate([array, padding]))

  def unshard(self, array: Any, number: int) -> np.ndarray:
    """Undoes `pad_shard` in every process: [P, B / D, ...] -> [number, ...]."""
    array = jax.device_get(array)
    if len(self._mine) < len(self):
      array = hosts.gather(array)
    return array.reshape(-1, *array.shape[2:])[:number]
