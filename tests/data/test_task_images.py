import hashlib
import shutil

import pytest

from memkd_jax.data import folder, task_images
from memkd_jax.data.datasets import open_source
from memkd_jax.data.task_images import describe_changes, describe_leak, image_digests, list_task
from memkd_jax.errors import UserError


@pytest.fixture
def source(tmp_path, make_category):
  make_category(tmp_path)
  return open_source('folder', 'folder', str(tmp_path))


def test_a_task_has_the_samples_of_its_categories(source):
  images = list_task(source, ('bolt',), ('bolt',))
  assert len(images.train) == 10
  assert len(images.test) == 6
  assert images.notes == ()


def test_defects_are_not_learned_from(tmp_path):
  for name in ('a.png', 'b.png'):
    (tmp_path / name).write_bytes(b'')
  table = tmp_path / 'parts.csv'
  table.write_text('path,label,split\na.png,good,train\nb.png,bad,train\n', encoding='utf-8')
  source = open_source('images', 'folder', str(table))
  with pytest.raises(UserError, match=r'parts: .*b\.png is among the training images but not'):
    list_task(source, ('parts',), ('parts',))


def test_a_digest_is_of_contents_masks_and_labels(source, tmp_path):
  samples = list_task(source, ('bolt',), ('bolt',)).test
  before = image_digests(samples, 2)
  assert list(before) == [s.id for s in samples]
  good = samples[0]
  expected = hashlib.sha256(b'good')
  expected.update(b'rgb' + hashlib.sha256(good.image.read_bytes()).digest())
  assert before[good.id] == expected.hexdigest()[:16]
  mask = tmp_path / 'bolt' / 'ground_truth' / 'hole' / '000_mask.png'
  mask.write_bytes(mask.read_bytes() + b' ')
  after = image_digests(samples, 2)
  assert [i for i in before if before[i] != after[i]] == ['test/hole/000.png']


def test_changes_are_counted_and_named():
  old = {'a': '1', 'b': '2', 'c': '3'}
  assert describe_changes(old, dict(old)) == ''
  new = {'b': '2', 'c': '4', **{f'n{i}': '0' for i in range(5)}}
  assert describe_changes(old, new) == (
    '5 are new (n0, n1, n2, 2 more), 1 is gone (a), 1 has another content (c)'
  )


def test_test_images_among_the_training_images_are_named(source, tmp_path):
  category = tmp_path / 'bolt'
  assert describe_leak(*splits(tmp_path), 2) == ''
  shutil.copy(category / 'train' / 'good' / '003.png', category / 'test' / 'good' / 'x.png')
  sentence = describe_leak(*splits(tmp_path), 2)
  assert sentence.startswith('1 test image is a training image as well')
  assert 'test/good/x.png' in sentence


def splits(root):
  return [folder.list_samples(root, 'bolt', split) for split in ('train', 'test')]


def test_many_names_are_shortened():
  assert task_images.shorten(['a', 'b']) == 'a, b'
  assert task_images.shorten(list('abcde')) == 'a, b, c, 2 more'
