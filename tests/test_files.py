import os

import pytest

from memkd_jax import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'results.json'
  files.write_json(path, {'a': 1})
  with pytest.raises(ValueError):
    files.write_json(path, {'a': float('nan')})
  with pytest.raises(RuntimeError), files.replacing(path) as temporary:
    temporary.write_text('half')
    raise RuntimeError
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert os.listdir(tmp_path) == ['results.json']


def test_a_new_file_has_the_usual_permissions(tmp_path):
  files.write_text(tmp_path / 'a.txt', 'x')
  (tmp_path / 'b.txt').write_text('x')
  assert (tmp_path / 'a.txt').stat().st_mode == (tmp_path / 'b.txt').stat().st_mode
