import shutil

import pytest

from memkd_jax.data import folder
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError


def test_lists_what_is_there(tmp_path, make_category):
  make_category(tmp_path, 'bolt')
  make_category(tmp_path, 'nut')
  (tmp_path / 'readme').mkdir()
  shutil.copytree(tmp_path / 'nut', tmp_path / '.trash')
  hidden = tmp_path / 'bolt' / 'test' / '.ipynb_checkpoints'
  shutil.copytree(tmp_path / 'bolt' / 'test' / 'hole', hidden)
  (tmp_path / 'bolt' / 'test' / 'good' / 'Thumbs.db').write_bytes(b'')
  (tmp_path / 'bolt' / 'test' / 'good' / '.hidden.png').write_bytes(b'')
  assert folder.list_categories(tmp_path) == ['bolt', 'nut']
  train = folder.list_samples(tmp_path, 'bolt', 'train')
  test = folder.list_samples(tmp_path, 'bolt', 'test')
  assert [s.label for s in train] == [0] * 10
  assert [s.id for s in test] == [
    *(f'test/good/00{i}.png' for i in range(3)),
    *(f'test/hole/00{i}.png' for i in range(3)),
  ]
  assert [s.label for s in test] == [0, 0, 0, 1, 1, 1]
  assert [s.mask.name for s in test[3:]] == ['000_mask.png', '001_mask.png', '002_mask.png']


def test_no_ground_truth_at_all_means_no_masks(tmp_path, make_category):
  make_category(tmp_path, masks=False)
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  assert all(s.mask is None for s in samples)
  assert load_split(samples, 32, 2).masks is None


def test_arrays_keep_the_order_and_the_label_of_a_vanished_defect(tmp_path, make_category):
  from PIL import Image

  category = make_category(tmp_path)
  mask = category / 'ground_truth' / 'hole' / '000_mask.png'
  dot = Image.new('L', (32, 32))
  dot.putpixel((5, 5), 255)  # one pixel, gone at half the size
  dot.save(mask)
  split = load_split(folder.list_samples(tmp_path, 'bolt', 'test'), 16, 2)
  assert split.images.shape == (6, 16, 16, 3)
  assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert split.masks.any((1, 2)).tolist() == [False, False, False, False, True, True]


def remove_mask(category):
  (category / 'ground_truth' / 'hole' / '001_mask.png').unlink()


def remove_image(category):
  (category / 'test' / 'hole' / '001.png').unlink()


def empty_train(category):
  shutil.rmtree(category / 'train' / 'good')
  (category / 'train' / 'good').mkdir()


def remove_test(category):
  shutil.rmtree(category / 'test')


def same_stem(category):
  shutil.copy(category / 'test' / 'hole' / '001.png', category / 'test' / 'hole' / '001.bmp')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (remove_mask, r'hole/001\.png has no mask: .*ground_truth/hole/001_mask\.png'),
    (remove_image, r'001_mask\.png has no image'),
    (empty_train, r'no images in .*bolt/train/good'),
    (remove_test, r'no folder .*bolt/test'),
    (same_stem, r'001\.bmp shares its mask'),
    (shutil.rmtree, r'no folder .*bolt; expected layout'),
  ],
)
def test_gaps_are_named(tmp_path, make_category, damage, message):
  damage(make_category(tmp_path))
  with pytest.raises(UserError, match=message):
    for split in ('train', 'test'):
      folder.list_samples(tmp_path, 'bolt', split)


def test_broken_files_and_wrong_mask_sizes_are_named(tmp_path, make_category):
  from PIL import Image

  category = make_category(tmp_path)
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  Image.new('L', (32, 31)).save(category / 'ground_truth' / 'hole' / '002_mask.png')
  with pytest.raises(UserError, match=r'002_mask\.png is 32x31 pixels .*002\.png is 32x32'):
    load_split(samples, 16, 2)
  (category / 'test' / 'good' / '001.png').write_bytes(b'broken')
  with pytest.raises(UserError, match=r'good/001\.png is not a readable image'):
    load_split(samples, 16, 2)
