"""Counters of energy, where the machine has one that can be read.

A GPU's own is NVIDIA's management library, of all GPUs of the machine; a CPU's is Linux's
powercap, of all its packages, without the memory. Both count what others use meanwhile.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

# Gives the joules since it was made.
Counter = Callable[[], float]
_POWERCAP = Path('/sys/class/powercap')


def find(gpu: bool) -> tuple[str, Counter] | None:
  """What is counted, and its counter; None where none can be read.

  Args:
    gpu: whether a GPU computes.
  """
  counter = of_gpus() if gpu else of_packages()
  return ('all GPUs' if gpu else 'all CPU packages', counter) if counter else None


def of_packages(folder: Path = _POWERCAP) -> Counter | None:
  """Of the CPU's packages by powercap; None where it is not there, or not for this user.

  Args:
    folder: its zones are folders with the files name, energy_uj and max_energy_range_uj.
  """
  # Not the zones below a package, nor the whole platform, which would count twice.
  zones = [
    path for path in sorted(folder.glob('intel-rapl:*')) if _text(path).startswith('package')
  ]
  try:
    before = [_number(zone / 'energy_uj') for zone in zones]
    ranges = [_number(zone / 'max_energy_range_uj') for zone in zones]
  except (OSError, ValueError):
    return None
  if not zones:
    return None
  total = 0

  def joules() -> float:
    nonlocal before, total
    now = [_number(zone / 'energy_uj') for zone in zones]
    # A counter begins again at 0 behind its range; it is read more often than that.
    total += sum(
      y - x if y >= x else y - x + whole
      for x, y, whole in zip(before, now, ranges, strict=True)
    )
    before = now
    return total / 1e6

  return joules


def of_gpus() -> Counter | None:
  """Of NVIDIA's GPUs; None where the library or the counter is missing."""
  try:
    library = ctypes.CDLL('libnvidia-ml.so.1')
  except OSError:
    return None
  number = ctypes.c_uint()
  if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(number)):
    return None
  handles = [ctypes.c_void_p() for _ in range(number.value)]
  for i, handle in enumerate(handles):
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(i), ctypes.byref(handle)):
      return None

  def millijoules() -> int | None:
    total, value = 0, ctypes.c_ulonglong()
    for handle in handles:
      if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
        return None
      total += value.value
    return total

  begin = millijoules()
  if begin is None or not handles:
    return None

  def joules() -> float:
    now = millijoules()
    if now is None:
      raise OSError('the counter of energy cannot be read any more')
    return (now - begin) / 1e3

  return joules


def _text(zone: Path) -> str:
  try:
    return (zone / 'name').read_text(encoding='ascii')
  except OSError:
    return ''


def _number(path: Path) -> int:
  return int(path.read_text(encoding='ascii'))
