import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from memkd_jax.files.digest import images_digest
from memkd_jax.files.stored_rows import RowFile, concatenate, is_stored, mapped, take


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (50, 8, 6, 3), dtype=np.uint8)


@pytest.fixture
def rows(tmp_path, images):
  """The same in a file, written by several threads."""
  file = RowFile(tmp_path, images.shape, np.uint8)
  with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda i: file.__setitem__(i, images[i]), range(len(images))))
  return file


def test_rows_are_read_as_those_of_an_array(rows, images):
  assert (rows.shape, rows.dtype, rows.ndim) == (images.shape, images.dtype, 4)
  assert (len(rows), rows.nbytes) == (len(images), images.nbytes)
  some = np.random.default_rng(1).integers(-50, 50, (2, 7))
  for which in (3, -1, np.int64(4), slice(2, 9), slice(None, None, -3), slice(60, 70), some):
    np.testing.assert_array_equal(rows[which], images[which], strict=True)
  assert rows[[]].shape == (0, 8, 6, 3)
  odd = np.arange(50) % 2 == 1
  np.testing.assert_array_equal(rows[odd], images[odd])
  np.testing.assert_array_equal(np.asarray(rows), images)
  np.testing.assert_array_equal(list(rows), images)
  for wrong in (50, -51, [0, 50], 1.5):
    with pytest.raises(IndexError):
      rows[wrong]


def test_views_are_read_when_they_are_indexed(rows, images):
  order = np.array([9, 3, 3, 40])
  chosen = take(rows, order)
  both = concatenate([chosen, images[:5], rows])
  flipped = mapped(both, np.array([4, 0]), lambda i, x: x[:, ::-1] + i, (8, 6, 3))
  assert all(map(is_stored, (chosen, both, flipped)))
  together = np.concatenate([images[order], images[:5], images])
  np.testing.assert_array_equal(chosen[:], images[order])
  np.testing.assert_array_equal(take(chosen, np.array([2, 0]))[:], images[[3, 9]])
  np.testing.assert_array_equal(both[::-1], together[::-1])
  np.testing.assert_array_equal(flipped[1], together[0][:, ::-1] + 1)
  assert not is_stored(take(images, order)) and not is_stored(concatenate([images, images]))


def test_the_digest_is_that_of_the_array(rows, images):
  assert images_digest(rows) == images_digest(images)
  order = np.array([9, 3])
  assert images_digest(take(rows, order)) == images_digest(images[order])


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_features_are_written_in_slices(tmp_path, rng, dtype):
  features = rng.normal(size=(10, 2, 3)).astype(dtype)
  file = RowFile(tmp_path, features.shape, dtype)
  for begin in range(0, 10, 4):
    file[begin : begin + 4] = features[begin : begin + 4]
  np.testing.assert_array_equal(file[:], features)
  with pytest.raises(ValueError, match='rows of'):
    file[0] = features[0, :1]


def test_the_file_has_no_name_and_goes_with_its_last_reader(tmp_path, images):
  file = RowFile(tmp_path, images.shape, np.uint8)
  handle, view = file._handle, take(file, np.arange(3))
  del file
  gc.collect()
  assert list(tmp_path.iterdir()) == []
  os.fstat(handle)
  del view
  gc.collect()
  with pytest.raises(OSError):
    os.fstat(handle)


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path):
  code = (
    'import pathlib, sys, time, numpy as np\n'
    'from memkd_jax.files.stored_rows import RowFile\n'
    'file = RowFile(pathlib.Path(sys.argv[1]), (4, 1 << 20), np.uint8)\n'
    'file[0] = np.zeros(1 << 20, np.uint8)\n'
    'print("written", flush=True)\n'
    'time.sleep(60)\n'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'written\n'
    process.send_signal(signal.SIGKILL)
  assert list(tmp_path.iterdir()) == []


def test_a_file_that_ends_too_early_is_an_error(rows):
  os.ftruncate(rows._handle, 100)
  with pytest.raises(OSError, match='ends too early'):
    rows[49]


def anonymous_memory():
  lines = Path('/proc/self/status').read_text().splitlines()
  return next(1024 * int(line.split()[1]) for line in lines if line.startswith('RssAnon'))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='Linux says what is held')
def test_memory_does_not_grow_with_the_file(tmp_path):
  file = RowFile(tmp_path, (1000, 200_000), np.uint8)
  row, most = np.zeros(200_000, np.uint8), 0
  before = anonymous_memory()
  for i in range(len(file)):
    file[i] = row
  for begin in range(0, len(file), 20):
    file[begin : begin + 20]
    most = max(most, anonymous_memory() - before)
  assert most < file.nbytes / 5
