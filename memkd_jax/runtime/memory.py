"""How much memory the host has left, and how much this process has taken."""

from pathlib import Path


def free_host_memory() -> int:
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


def reset_peak() -> int | None:
  """Lets `peak_memory` begin anew.

  Returns:
    The bytes that this process holds now; None, and the peak stays, where the system does not
    let it.
  """
  try:
    Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
  except OSError:
    return None
  return peak_memory()


def peak_memory() -> int | None:
  """The most bytes that this process has held in memory since `reset_peak`.

  None where the system does not say.
  """
  try:
    lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('VmHWM'))
  except (OSError, StopIteration):
    return None


def peak_beyond(held: int | None) -> int | None:
  """Bytes of the peak above what `reset_peak` gave; None where either is not known."""
  peak = peak_memory()
  # The kernel counts some pages late, so the difference may fall below nothing.
  return None if held is None or peak is None else max(0, peak - held)
