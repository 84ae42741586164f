import errno
import os
import re

import pytest

from memkd_jax.files import atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'results.json'
  atomic.write_json(path, {'a': 1})
  with pytest.raises(ValueError):
    atomic.write_json(path, {'a': float('nan')})
  with pytest.raises(RuntimeError), atomic.atomic_write(path) as temporary:
    temporary.write_text('half')
    raise RuntimeError
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert os.listdir(tmp_path) == ['results.json']


def test_a_new_file_has_the_usual_permissions(tmp_path):
  atomic.write_text(tmp_path / 'a.txt', 'x')
  (tmp_path / 'b.txt').write_text('x')
  assert (tmp_path / 'a.txt').stat().st_mode == (tmp_path / 'b.txt').stat().st_mode


def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path):
  path = tmp_path / 'results.json'
  with pytest.raises(OSError) as error, atomic.atomic_write(path):
    raise OSError(errno.ENOSPC, 'No space left on device')
  assert error.value.filename == str(path)
  with pytest.raises(FileNotFoundError) as error, atomic.atomic_write(path) as temporary:
    temporary.unlink()
  assert error.value.filename == str(path)
  with pytest.raises(FileNotFoundError, match=re.escape('/another')), atomic.atomic_write(path):
    (tmp_path / 'another').read_bytes()
  assert os.listdir(tmp_path) == []


def test_what_killed_processes_left_is_removed(tmp_path):
  with atomic.atomic_write(tmp_path / 'figure.png') as temporary:
    left = temporary.read_bytes()
    name = temporary.name
  (tmp_path / name).write_bytes(left)
  for other in ('.hidden', 'results.json'):
    (tmp_path / other).write_text('x')
  atomic.remove_orphans([tmp_path, tmp_path / 'gone'])
  assert sorted(os.listdir(tmp_path)) == ['.hidden', 'figure.png', 'results.json']
