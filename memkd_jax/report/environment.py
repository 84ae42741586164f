"""On what, with what and when a run was made."""

import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import jax

import memkd_jax


def describe_environment(started: float) -> dict[str, Any]:
  """The facts that stand beside the figures of a run.

  Args:
    started: `time.monotonic()` at the beginning of this command, in seconds.

  Returns:
    {'versions': {package: version}, 'device': {'platform', 'kind', 'number'} of the
    devices of all processes, 'processes': the number of processes, 'finished': now in UTC
    (ISO 8601), 'seconds': how long this command took}.
  """
  devices = jax.devices()
  packages = ('jax', 'jaxlib', 'flax', 'numpy')
  return {
    'versions': {
      'python': platform.python_version(),
      **{name: metadata.version(name) for name in packages},
      'memkd_jax': memkd_jax.__version__,
    },
    'device': {
      'platform': devices[0].platform,
      'kind': devices[0].device_kind,
      'number': len(devices),
    },
    'processes': jax.process_count(),
    'finished': datetime.now(UTC).isoformat(timespec='seconds'),
    'seconds': round(time.monotonic() - started, 1),
  }
