import pathlib

import numpy as np
import pytest

from memkd_jax.runtime.memory import free_host_memory, peak_beyond, peak_memory, reset_peak

MEMINFO = '/proc/meminfo'
CURRENT, LIMIT = '/sys/fs/cgroup/memory.current', '/sys/fs/cgroup/memory.max'


@pytest.mark.parametrize(
  ('files', 'expected'),
  [
    ({}, 0),
    ({MEMINFO: 'MemTotal: 9 kB'}, 0),
    ({MEMINFO: 'MemTotal: 9 kB\nMemAvailable: 5 kB'}, 5 * 1024),
    ({MEMINFO: 'MemAvailable: 5 kB', CURRENT: '100', LIMIT: 'max'}, 5 * 1024),
    ({MEMINFO: 'MemAvailable: 5 kB', CURRENT: '100', LIMIT: '1000'}, 900),
    ({MEMINFO: 'MemAvailable: 5 kB', CURRENT: '100', LIMIT: '9000'}, 5 * 1024),
  ],
)
def test_a_container_may_have_less_than_the_host(monkeypatch, files, expected):
  def read(path, encoding):
    if str(path) not in files:
      raise FileNotFoundError(path)
    return files[str(path)]

  monkeypatch.setattr(pathlib.Path, 'read_text', read)
  assert free_host_memory() == expected


@pytest.mark.skipif(peak_memory() is None, reason='the system does not tell')
def test_the_peak_is_seen_and_forgotten():
  before = peak_memory()
  array = np.ones(2**25)
  high = peak_memory()
  assert high >= before and high >= array.nbytes
  del array
  held = reset_peak()
  assert peak_memory() < high
  array = np.ones(2**25)
  assert array.nbytes / 2 < peak_beyond(held) < high
  assert peak_beyond(high + 2**40) == 0


def test_no_peak_is_known_where_the_system_does_not_tell(monkeypatch):
  def missing(path, *_, **__):
    raise FileNotFoundError(path)

  monkeypatch.setattr(pathlib.Path, 'read_text', missing)
  monkeypatch.setattr(pathlib.Path, 'write_text', missing)
  assert reset_peak() is None
  assert peak_memory() is None and peak_beyond(0) is None
