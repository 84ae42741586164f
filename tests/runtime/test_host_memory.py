import pathlib

import pytest

from memkd_jax.runtime.memory import free_host_memory

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
