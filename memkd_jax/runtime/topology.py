"""TPUs that are not there: the devices of a topology, for which libtpu compiles on any host."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from memkd_jax.errors import UserError

# How the chips of a slice lie, by their number, which its name has: v5e-8 for example.
_PLANES = {
  1: '1x1',
  4: '2x2',
  8: '2x4',
  16: '4x4',
  32: '4x8',
  64: '8x8',
  128: '8x16',
  256: '16x16',
}
_KINDS = {'v5e': 'v5e', 'v5litepod': 'v5e', 'v6e': 'v6e'}
# A host without a TPU has no metadata of the cloud to ask, and no TPU that would be taken from
# another process.
_ALONE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def spelled(name: str) -> str:
  """A topology as libtpu spells it: 'v5e:2x4' of 'v5e:2x4' or 'v5e-8'.

  Raises:
    UserError: it is neither.
  """
  if re.fullmatch(r'\w+:\d+(x\d+)*', name):
    return name
  kind, _, number = name.partition('-')
  shape = _PLANES.get(int(number)) if number.isdecimal() else None
  if shape is None or kind not in _KINDS:
    numbers = ', '.join(map(str, _PLANES))
    raise UserError(
      f'--compile-only={name}: this is no topology; give its kind and shape, v5e:2x4 for '
      f'example, or v5e-N or v6e-N for N = {numbers}.'
    )
  return f'{_KINDS[kind]}:{shape}'


def chips(topology: str) -> int:
  """The number of chips of a topology as `spelled` gives it."""
  return math.prod(map(int, topology.partition(':')[2].split('x')))


def has_compiler() -> bool:
  """Whether libtpu is installed, which compiles for TPUs."""
  return importlib.util.find_spec('libtpu') is not None


def devices_of(topology: str) -> Sequence[jax.Device]:
  """The devices of a topology, for which programs can be compiled and not run.

  Args:
    topology: the topology's name, as `spelled` gives it.

  Raises:
    UserError: libtpu does not know it.
  """
  from jax.experimental import topologies

  for name, value in _ALONE.items():
    os.environ.setdefault(name, value)
  sides = [int(side) for side in topology.partition(':')[2].split('x')]
  bounds = tuple((*sides, 1, 1)[:3])
  try:  # as if one host had all chips: pmap, of one process, takes no devices of others
    found: Any = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, chips_per_host_bounds=bounds
    )
  except Exception as error:  # of libtpu, which has no errors of its own
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')
    raise UserError(
      f'--compile-only={topology}: libtpu cannot describe it ({reason[:300]}); give another '
      'topology, v5e:2x4 for example.'
    ) from error
  devices: list[jax.Device] = list(found.devices)
  return devices
