import os

import jax
import pytest

from memkd_jax import compile_cache


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


def test_on_cpu_there_is_none(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  assert compile_cache.enable(tmp_path / 'programs') is None
  assert list(tmp_path.iterdir()) == []
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
