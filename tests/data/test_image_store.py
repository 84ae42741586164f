import gc

import numpy as np
import pytest

from memkd_jax.data import folder, image_store
from memkd_jax.data.framing import Framing
from memkd_jax.data.image_store import Scratch, choose_place, scratch_of
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError
from memkd_jax.files.stored_rows import is_stored

SQUARES = Framing((32, 32))
OF_EACH = 3 * 32 * 32


def test_a_split_on_the_disk_is_that_in_memory(tmp_path, make_category):
  make_category(tmp_path / 'data')
  for part in ('train', 'test'):
    samples = folder.list_samples(tmp_path / 'data', 'bolt', part)
    host = load_split(samples, (32, 48), 2)
    disk = load_split(samples, (32, 48), 2, scratch=Scratch(tmp_path))
    assert is_stored(disk.images) and not is_stored(host.images)
    np.testing.assert_array_equal(disk.images[:], host.images, strict=True)
    np.testing.assert_array_equal(disk.sizes, host.sizes)
    some = np.array([4, 1])
    np.testing.assert_array_equal(disk.take(some).images[:], host.images[some])
    if part == 'test':
      np.testing.assert_array_equal(disk.masks, host.masks)


def test_the_disk_is_chosen_where_memory_is_small():
  size = 100 * OF_EACH
  assert choose_place('auto', SQUARES, 100, 4 * size, 10 * size) == 'host'
  assert choose_place('auto', SQUARES, 100, 4 * size - 1, 10 * size) == 'disk'
  assert choose_place('auto', SQUARES, 100, size, size - 1) == 'host'  # no room
  assert choose_place('auto', SQUARES, 100, 0, 10 * size) == 'host'  # nobody knows
  assert choose_place('disk', SQUARES, 100, 100 * size, 0) == 'disk'
  assert choose_place('host', SQUARES, 100, 1, 10 * size) == 'host'


def test_canvases_of_sizes_of_their_own_stay_in_memory():
  ragged = Framing(lambda original: original)
  assert choose_place('auto', ragged, 100, 1, 10**9) == 'host'
  with pytest.raises(UserError, match=r'data\.memory=disk: with data\.tile_size .*data\.tiles'):
    choose_place('disk', ragged, 100, 1, 10**9)


def test_too_little_disk_is_one_sentence(tmp_path, monkeypatch):
  with pytest.raises(
    UserError,
    match=r'^--config\.data\.memory=disk: 5 images need 0\.02 GB in .*, where 0\.01 GB may be '
    r'taken; make room there, .*data\.disk_limit .*data\.scratch\.$',
  ):
    Scratch(tmp_path, 10**7).array((5, 4 * 10**6), np.uint8, '5 images', 'data.memory=disk')

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(image_store, 'RowFile', full)
  with pytest.raises(UserError, match=r'may be taken \(No space left on device\); make room'):
    Scratch(tmp_path).array((5, 4), np.uint8, '5 images', 'data.memory=disk')


def test_a_full_disk_is_noticed_before_anything_is_decoded(mount_disk):
  scratch = Scratch(mount_disk(1000))
  file = scratch.array((800, 1000), np.uint8, '800 images', 'data.memory=disk')
  with pytest.raises(UserError, match='800 images need'):
    scratch.array((800, 1000), np.uint8, '800 images', 'data.memory=disk')
  del file
  gc.collect()
  scratch.array((800, 1000), np.uint8, '800 images', 'data.memory=disk')


def test_the_limit_is_one_of_all_files_together(tmp_path):
  gc.collect()
  scratch = Scratch(tmp_path, image_store._held + 100)
  file = scratch.array((6, 10), np.uint8, '6 images', 'data.memory=disk')
  assert scratch.room() == 40
  with pytest.raises(UserError):
    scratch.array((5, 10), np.uint8, '5 images', 'data.memory=disk')
  del file
  gc.collect()
  assert scratch.room() == 100


def test_the_folder_is_that_of_the_run_unless_another_is_named(tmp_path):
  assert scratch_of({}, tmp_path) == Scratch(tmp_path, 0)
  named = scratch_of({'scratch': str(tmp_path / 'none'), 'disk_limit': 2.5}, tmp_path)
  assert named.limit == 2_500_000_000
  with pytest.raises(UserError, match=r'data\.scratch=.*none is no folder; make it'):
    named.room()
  assert scratch_of({}, tmp_path / 'none').folder.is_dir()  # of the system, in other processes
