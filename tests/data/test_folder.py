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
  assert load_split(samples, (32, 32), 2).masks is None


def test_arrays_keep_the_order_and_the_label_of_a_vanished_defect(tmp_path, make_category):
  from PIL import Image

  category = make_category(tmp_path)
  mask = category / 'ground_truth' / 'hole' / '000_mask.png'
  dot = Image.new('L', (32, 32))
  dot.putpixel((5, 5), 255)  # one pixel, gone at half the size
  dot.save(mask)
  split = load_split(folder.list_samples(tmp_path, 'bolt', 'test'), (16, 16), 2)
  assert split.images.shape == (6, 16, 16, 3)
  assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert split.masks.any((1, 2)).tolist() == [False, False, False, False, True, True]


def remove_image(category):
  (category / 'test' / 'hole' / '001.png').unlink()


def empty_train(category):
  shutil.rmtree(category / 'train' / 'good')
  (category / 'train' / 'good').mkdir()


def put_beside_the_folders(category):
  shutil.copy(category / 'test' / 'hole' / '001.png', category / 'test' / 'loose.png')


def add_second_normal_folder(category):
  shutil.copytree(category / 'test' / 'good', category / 'test' / 'OK')


def same_stem(category):
  shutil.copy(category / 'test' / 'hole' / '001.png', category / 'test' / 'hole' / '001.bmp')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (remove_image, r'001_mask\.png has no image'),
    (empty_train, r'no images in .*bolt/train/good'),
    (put_beside_the_folders, r'loose\.png lies in no subfolder of .*bolt/test'),
    (add_second_normal_folder, r'OK and good; .* --config\.data\.normal_dir=OK'),
    (same_stem, r'001\.bmp shares its mask'),
    (shutil.rmtree, r'no folder .*bolt; expected layout'),
  ],
)
def test_gaps_are_named(tmp_path, make_category, damage, message):
  damage(make_category(tmp_path))
  with pytest.raises(UserError, match=message):
    for split in ('train', 'test'):
      folder.list_samples(tmp_path, 'bolt', split)


def test_what_is_not_there_is_no_sample(tmp_path, make_category):
  category = make_category(tmp_path)
  shutil.rmtree(category / 'test' / 'good')
  assert {s.defect for s in folder.list_samples(tmp_path, 'bolt', 'test')} == {'hole'}
  shutil.rmtree(category / 'test')
  shutil.rmtree(category / 'ground_truth')
  assert folder.list_samples(tmp_path, 'bolt', 'test') == []
  assert len(folder.list_samples(tmp_path, 'bolt', 'train')) == 10
  assert folder.notes(tmp_path, 'bolt') == []


def test_masks_of_some_are_counted(tmp_path, make_category):
  category = make_category(tmp_path)
  (category / 'ground_truth' / 'hole' / '001_mask.png').unlink()
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  assert [s.mask is not None for s in samples] == [False, False, False, True, False, True]
  split = load_split(samples, (32, 32), 2)
  assert split.has_pixel_labels.tolist() == [True, True, True, True, False, True]
  (note,) = folder.notes(tmp_path, 'bolt')
  assert note.startswith('bolt: 1 of 3 defective images have no mask')
  assert 'test/hole/001.png' in note


@pytest.mark.parametrize('suffix', ['_mask.png', '.png'])
def test_usual_names_are_recognised_and_said(tmp_path, make_category, suffix):
  category = make_category(tmp_path)
  (category / 'train' / 'good').rename(category / 'train' / 'OK')
  (category / 'test' / 'good').rename(category / 'test' / 'Normal')
  (category / 'test' / 'hole').rename(category / 'test' / 'ko')
  (category / 'ground_truth' / 'hole').rename(category / 'ground_truth' / 'ko')
  for mask in list((category / 'ground_truth' / 'ko').iterdir()):
    mask.rename(mask.with_name(mask.name.replace('_mask.png', suffix)))
  (category / 'ground_truth').rename(category / 'masks')
  assert folder.list_categories(tmp_path) == ['bolt']
  assert len(folder.list_samples(tmp_path, 'bolt', 'train')) == 10
  test = folder.list_samples(tmp_path, 'bolt', 'test')
  assert sorted(s.defect for s in test) == ['good'] * 3 + ['ko'] * 3
  assert all((s.mask is not None) == s.label for s in test)
  (note,) = folder.notes(tmp_path, 'bolt')
  for place in ('bolt/train/OK', 'bolt/test/Normal', 'bolt/masks'):
    assert place in note


def test_names_can_be_given(tmp_path, make_category):
  category = make_category(tmp_path)
  (category / 'train').rename(category / 'lernen')
  (category / 'lernen' / 'good').rename(category / 'lernen' / 'gut')
  (category / 'test' / 'good').rename(category / 'test' / 'gut')
  names = {'train_dir': 'lernen', 'normal_dir': 'gut'}
  assert folder.list_categories(tmp_path) == []
  assert folder.list_categories(tmp_path, **names) == ['bolt']
  assert len(folder.list_samples(tmp_path, 'bolt', 'train', **names)) == 10
  test = folder.list_samples(tmp_path, 'bolt', 'test', **names)
  assert [s.label for s in test] == [0, 0, 0, 1, 1, 1]


def test_subfolders_are_read_and_what_is_no_image_is_named(tmp_path, make_category):
  category = make_category(tmp_path)
  for where in ('train/good', 'test/hole'):
    (category / where / 'day2').mkdir()
    shutil.copy(category / where / '001.png', category / where / 'day2' / '001.png')
  (category / 'ground_truth' / 'hole' / 'day2').mkdir()
  mask = category / 'ground_truth' / 'hole' / '001_mask.png'
  shutil.copy(mask, category / 'ground_truth' / 'hole' / 'day2' / '001_mask.png')
  (category / 'train' / 'good' / 'photo').write_bytes(b'')
  (category / 'train' / 'good' / 'photo.heic').write_bytes(b'')
  (category / 'train' / 'bad').mkdir()
  train = folder.list_samples(tmp_path, 'bolt', 'train')
  assert 'train/good/day2/001.png' in [s.id for s in train]
  nested = [s for s in folder.list_samples(tmp_path, 'bolt', 'test') if 'day2' in s.id]
  assert [s.mask.parent.name for s in nested] == ['day2']
  ignored, left_out = folder.notes(tmp_path, 'bolt')
  assert 'bolt/train/bad' in ignored
  assert 'photo.heic' in left_out
  assert '1 file without a suffix' in left_out


def test_training_images_may_lie_in_train_itself(tmp_path, make_category):
  category = make_category(tmp_path)
  for image in list((category / 'train' / 'good').iterdir()):
    image.rename(category / 'train' / image.name)
  (category / 'train' / 'good').rmdir()
  assert folder.list_categories(tmp_path) == ['bolt']
  assert len(folder.list_samples(tmp_path, 'bolt', 'train')) == 10


def test_broken_files_and_wrong_mask_sizes_are_named(tmp_path, make_category):
  from PIL import Image

  category = make_category(tmp_path)
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  Image.new('L', (32, 31)).save(category / 'ground_truth' / 'hole' / '002_mask.png')
  with pytest.raises(UserError, match=r'002_mask\.png is 32x31 pixels .*002\.png is 32x32'):
    load_split(samples, (16, 16), 2)
  (category / 'test' / 'good' / '001.png').write_bytes(b'broken')
  with pytest.raises(UserError, match=r'good/001\.png is not a readable image'):
    load_split(samples, (16, 16), 2)
