"""Regular files alone are opened, and nothing is waited for."""

import os

import pytest

from memkd_jax.files.reading import open_regular, parse_json, read_bytes, read_json, read_text


def make_pipe(path):
  os.mkfifo(path)


def make_folder(path):
  path.mkdir()


def make_loop(path):
  path.symlink_to(path)


def make_device(path):
  path.symlink_to('/dev/zero')


@pytest.mark.parametrize('make', [make_pipe, make_folder, make_loop, make_device])
def test_what_is_no_file_is_refused_by_name(tmp_path, make):
  path = tmp_path / 'x'
  make(path)
  with pytest.raises(OSError) as error:
    open_regular(path)
  assert str(error.value.filename) == str(path)


def test_sizes_are_bounded(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(b'\xef\xbb\xbfabc')
  assert read_bytes(path, 6) == b'\xef\xbb\xbfabc'
  assert read_text(path) == 'abc'
  with pytest.raises(ValueError, match='more than 5 bytes'):
    read_bytes(path, 5)


def test_json_is_finite_and_shallow(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text('{"a": [1, 2.5, true, null, 18446744073709551615]}')
  assert read_json(path) == {'a': [1, 2.5, True, None, 2**64 - 1]}
  for text in ('NaN', '[-Infinity]', '1e999', str(2**64), '9' * 5000, '[' * 100_000, '', '{'):
    with pytest.raises(ValueError):
      parse_json(text)
