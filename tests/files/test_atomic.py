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


@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077, 0o002])
def test_a_new_file_has_the_usual_permissions(tmp_path, umask):
  before = os.umask(umask)
  try:
    atomic.write_text(tmp_path / 'a.txt', 'x')
    with atomic.atomic_write(tmp_path / 'b.txt') as temporary:  # as safetensors writes
      temporary.unlink()
      temporary.touch(0o600)
    (tmp_path / 'c.txt').write_text('x')
  finally:
    os.umask(before)
  assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_folder_that_cannot_be_written_is_named_by_the_file(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError) as error:
    atomic.write_text(tmp_path / 'file' / 'a.txt', 'x')
  assert str(error.value.filename) in (str(tmp_path / 'file'), str(tmp_path / 'file' / 'a.txt'))


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
