import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from memkd_jax.runtime import compile_cache


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


def test_the_directory_is_private(tmp_path):
  directory = tmp_path / 'a' / 'programs'
  assert compile_cache.enable(directory) is None
  assert jax.config.jax_compilation_cache_dir == str(directory)
  assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize('mode', [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_not_used(tmp_path, mode):
  tmp_path.chmod(mode)
  assert 'others may write to' in compile_cache.enable(tmp_path)
  assert jax.config.jax_compilation_cache_dir is None


def test_a_directory_of_another_owner_is_not_used(tmp_path, monkeypatch):
  tmp_path.chmod(0o700)
  monkeypatch.setattr(os, 'getuid', lambda: tmp_path.stat().st_uid + 1)
  assert 'others may write to' in compile_cache.enable(tmp_path)
  assert jax.config.jax_compilation_cache_dir is None


def test_a_file_in_its_place_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'cannot be used' in compile_cache.enable(tmp_path / 'file' / 'programs')


@pytest.fixture
def cpu(tmp_path, monkeypatch):
  """A function that enables a cache on a CPU of some kind, with some version of JAX."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')

  def enable(flags, version=(0, 12, 0)):
    monkeypatch.setattr(jax, '__version_info__', version)
    monkeypatch.setattr(compile_cache, '_CPU_INFO', tmp_path / 'cpuinfo')
    processor = f'processor : 0\nmodel name : EPYC\nflags : {flags}\n\n'
    (tmp_path / 'cpuinfo').write_text(processor * 2)
    jax.config.update('jax_compilation_cache_dir', None)
    assert compile_cache.enable(tmp_path / 'programs') is None
    return jax.config.jax_compilation_cache_dir

  return enable


def test_each_kind_of_processor_has_programs_of_its_own(cpu, tmp_path):
  one, other, again = cpu('sse avx'), cpu('sse avx amx'), cpu('sse avx')
  assert one == again != other
  assert {str(path) for path in (tmp_path / 'programs').iterdir()} == {one, other}


def test_on_cpu_an_older_jax_keeps_none(cpu, tmp_path):
  assert cpu('sse avx', version=(0, 10, 2)) is None
  assert not (tmp_path / 'programs').exists()


@pytest.mark.parametrize('content', [None, 'processor : 0\n'])
def test_on_an_unknown_processor_there_is_none(tmp_path, monkeypatch, content):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  monkeypatch.setattr(jax, '__version_info__', (0, 12, 0))
  monkeypatch.setattr(compile_cache, '_CPU_INFO', tmp_path / 'cpuinfo')
  if content is not None:
    (tmp_path / 'cpuinfo').write_text(content)
  assert compile_cache.enable(tmp_path / 'programs') is None
  assert jax.config.jax_compilation_cache_dir is None


def test_the_users_own_cache_stays(tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  assert compile_cache.enable(tmp_path / 'other') is None
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_the_place_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.delenv('MEMKD_CACHE', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert compile_cache.default_directory() == tmp_path / 'memkd_jax' / 'programs'
  monkeypatch.setenv('MEMKD_CACHE', str(tmp_path / 'own'))
  assert compile_cache.default_directory() == tmp_path / 'own'


@pytest.fixture
def kept_programs(tmp_path):
  """A cache of one small program, on CPU, where `enable` would keep none."""
  settings = {
    'jax_compilation_cache_dir': str(tmp_path),
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  jax.block_until_ready(double(ONES))
  yield tmp_path
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def double(x):
  """Compiled at every call, or taken from the cache on disk."""
  return jax.jit(lambda x: x + x)(x)


ONES = np.ones(4)


@pytest.mark.parametrize('share', [0.0, 0.5, 0.99])
def test_an_entry_that_is_half_written_is_compiled_anew(kept_programs, share):
  """As another run finds it that starts just then, or after a `kill -9`."""
  (entry,) = kept_programs.glob('jit__lambda-*-cache')
  content = entry.read_bytes()
  entry.write_bytes(content[: int(share * len(content))])
  with pytest.warns(UserWarning, match='Error reading persistent compilation cache entry'):
    np.testing.assert_array_equal(double(ONES), 2 * ONES)


@pytest.mark.slow  # seconds, but they test JAX and not our own code
def test_runs_that_start_together_share_a_cache(tmp_path):
  program = (
    'import jax, sys\n'
    'jax.config.update("jax_compilation_cache_dir", sys.argv[1])\n'
    'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)\n'
    'jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)\n'
    'print(*[float(jax.jit(lambda x, n=n: x**n)(2.0)) for n in range(1, 9)])'
  )
  command = [sys.executable, '-W', 'ignore', '-c', program, str(tmp_path)]
  outputs = []
  for _ in range(2):  # into an empty cache, and from a full one
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    runs = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for process in runs:
      out, err = process.communicate(timeout=300)
      assert process.returncode == 0, err
      outputs.append(out)
  assert outputs == [' '.join(str(2.0**n) for n in range(1, 9)) + '\n'] * 8
  assert len(list(tmp_path.glob('*-cache'))) >= 8
