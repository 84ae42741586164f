"""The readers of BTAD, KolektorSDD, KolektorSDD2, VAD, Real-IAD and DAGM 2007."""

import csv
from pathlib import Path

import numpy as np
import pytest
from inspection_layouts import LAYOUTS
from PIL import Image

from memkd_jax.data.benchmarks import counts
from memkd_jax.data.datasets import DATASETS, choose_categories, open_source
from memkd_jax.data.splits import load_split
from memkd_jax.data.tfds import source as prepared_files
from memkd_jax.errors import UserError

CATEGORIES = {
  'btad': '03',
  'ksdd': 'fold_1',
  'ksdd2': 'ksdd2',
  'vad': 'vad',
  'real_iad': 'zipper',
  'dagm': 'Class7',
}
# (train, normal test images, anomalous test images)
NUMBERS = {
  'btad': (9, 3, 3),
  'ksdd': (12, 5, 3),  # objects 1 and 4 are tested, object 1 has two defects
  'ksdd2': (9, 3, 4),
  'vad': (9, 3, 5),
  'real_iad': (9, 3, 4),
  'dagm': (9, 3, 2),
}
DEFECTS = {
  'btad': {'good', 'ko'},
  'ksdd': {'good', 'defect'},
  'ksdd2': {'good', 'defect'},
  'vad': {'good', 'bad', 'bad_unseen_defects'},
  'real_iad': {'good', 'BX', 'HS'},
  'dagm': {'good', 'defect'},
}
FIRST = {
  'btad': 'test/ko/0000.bmp',
  'ksdd': 'kos01_Part0.jpg',
  'ksdd2': 'test/20000.png',
  'vad': 'test/bad/0000.png',
  'real_iad': 'OK/S0003/zipper_0003_OK_C1_20231021130716.jpg',
  'dagm': 'Test/0001.PNG',
}
LEFT_OUT = {
  'btad': [],
  'ksdd': [
    'fold_1: it tests the objects whose number leaves 1 when divided by 3; this is not the '
    "publisher's fold of that number.",
    'fold_1: 4 anomalous training images left out (of the other objects), as only normal ones '
    'are learned from.',
  ],
  'ksdd2': [
    'ksdd2: 3 anomalous training images left out (train), as only normal ones are learned from.'
  ],
  'vad': [
    'vad: 4 anomalous training images left out (vad/train/bad), as only normal ones are '
    'learned from.'
  ],
  'real_iad': ['zipper: the images of realiad_1024 are read.'],
  'dagm': [
    'Class7: 2 anomalous training images left out (Class7/Train), as only normal ones are '
    'learned from.'
  ],
}


@pytest.fixture(params=LAYOUTS)
def name(request, tmp_path):
  LAYOUTS[request.param](tmp_path)
  return request.param


def opened(name, root):
  return open_source(name, 'folder', str(root))


def listed(name, root, split='test'):
  return opened(name, root).list_samples(CATEGORIES[name], split)


def refused(name, root, split='test'):
  with pytest.raises(UserError) as error:
    listed(name, root, split)
  return str(error.value)


def test_a_layout_is_read(name, tmp_path):
  train, test = listed(name, tmp_path, 'train'), listed(name, tmp_path)
  numbers = len(train), sum(not s.label for s in test), sum(s.label for s in test)
  assert numbers == NUMBERS[name]
  assert not any(s.label for s in train)
  assert {s.defect for s in test} == DEFECTS[name]
  assert test[0].id == FIRST[name]
  assert len({s.id for s in (*train, *test)}) == len(train) + len(test)
  # Maps are files of these names in the folders of the defects.
  assert len({(s.defect, s.stem) for s in test}) == len(test)
  for sample in test:
    assert (sample.mask is not None) == (sample.label == 1 and name != 'vad')
  arrays = load_split(test, (32, 32), 2)
  if name == 'vad':
    assert arrays.masks is None
  else:
    assert arrays.masks.any((1, 2)).tolist() == (arrays.labels == 1).tolist()
  assert not {str(s.image) for s in test} & {str(s.image) for s in train}


def test_what_is_left_out_is_told(name, tmp_path):
  assert list(opened(name, tmp_path).notes(CATEGORIES[name])) == LEFT_OUT[name]


def test_all_categories_are_known(name, tmp_path):
  source = opened(name, tmp_path)
  assert source.categories == DATASETS[name].categories
  assert choose_categories(source, 'all') == list(source.categories)
  with (Path(counts.__file__).with_name('counts.csv')).open(newline='') as file:
    rows = [row['category'] for row in csv.DictReader(file) if row['dataset'] == name]
  assert set(rows) <= set(source.categories)


def test_the_place_of_the_data_is_found(name, tmp_path):
  (tmp_path / 'data').mkdir()
  for path in list(tmp_path.iterdir()):
    if path.name != 'data':
      path.rename(tmp_path / 'data' / path.name)
  with pytest.raises(UserError, match=r'one level deeper: pass --config\.data\.dir=.*/data;'):
    opened(name, tmp_path)
  with pytest.raises(UserError, match=r'There is no data folder .*gone\. Get .* from https://'):
    opened(name, tmp_path / 'gone')


def test_an_empty_split_is_named(name, tmp_path):
  source = opened(name, tmp_path)
  for sample in listed(name, tmp_path, 'train'):
    sample.image.unlink()
  message = {'real_iad': 'which .* lists, is missing', 'dagm': 'which Label/Labels.txt lists'}
  with pytest.raises(UserError, match=message.get(name, 'There are no images in')):
    source.list_samples(CATEGORIES[name], 'train')


@pytest.mark.parametrize('name', ['btad', 'real_iad', 'dagm'], indirect=True)
def test_masks_are_all_there_or_none(name, tmp_path):
  masks = [s.mask for s in listed(name, tmp_path) if s.label]
  masks[0].unlink()
  assert f'has no mask: {masks[0]} is expected' in refused(name, tmp_path)
  for mask in masks[1:]:
    mask.unlink()
  samples = listed(name, tmp_path)
  assert [s.mask for s in samples] == [None] * len(samples)
  assert sum(s.label for s in samples) == NUMBERS[name][2]


@pytest.mark.parametrize('name', ['btad', 'real_iad', 'dagm'], indirect=True)
def test_a_black_mask_makes_no_image_normal(name, tmp_path):
  """Of BTAD there is such a one: 02/ground_truth/ko/0145.png."""
  for sample in listed(name, tmp_path):
    if sample.label:
      Image.fromarray(np.zeros((32, 32), np.uint8)).save(sample.mask)
  assert sum(s.label for s in listed(name, tmp_path)) == NUMBERS[name][2]


@pytest.mark.parametrize('name', ['ksdd', 'ksdd2'], indirect=True)
def test_labels_of_kolektor_are_read_off_the_label_images(name, tmp_path):
  sample = next(s for s in listed(name, tmp_path) if s.label)
  one = np.zeros((32, 24), np.uint8)
  one[31, 23] = 1
  Image.fromarray(one).save(sample.mask)
  assert sample in listed(name, tmp_path)
  Image.fromarray(one * 0).save(sample.mask)
  assert {s.id: s.label for s in listed(name, tmp_path)}[sample.id] == 0
  sample.mask.write_bytes(b'broken')
  assert f'{sample.mask} is not a readable mask' in refused(name, tmp_path)


@pytest.mark.parametrize('name', ['ksdd', 'ksdd2'], indirect=True)
def test_an_image_of_kolektor_without_a_label_is_left_out_by_name(name, tmp_path):
  samples = listed(name, tmp_path)
  defective = next(s for s in samples if s.label)
  defective.mask.unlink()
  assert listed(name, tmp_path) == [s for s in samples if s.id != defective.id]
  told = f'1 image without a label image ({defective.image}).'
  assert opened(name, tmp_path).notes(CATEGORIES[name])[-1].endswith(f'Left out: {told}')


def test_no_object_is_on_both_sides_of_a_fold(tmp_path):
  LAYOUTS['ksdd'](tmp_path, objects=7)
  tested = []
  for category in DATASETS['ksdd'].categories:
    train, test = (
      {s.id.split('_')[0] for s in opened('ksdd', tmp_path).list_samples(category, split)}
      for split in ('train', 'test')
    )
    assert not train & test
    tested += sorted(test)
  assert tested == ['kos03', 'kos06', 'kos01', 'kos04', 'kos07', 'kos02', 'kos05']


def test_the_image_that_the_publisher_passes_over_is_not_used(tmp_path):
  LAYOUTS['ksdd'](tmp_path)
  (tmp_path / 'kos01').rename(tmp_path / 'kos21')
  for suffix in ('.jpg', '_label.bmp'):
    (tmp_path / 'kos21' / f'Part3{suffix}').rename(tmp_path / 'kos21' / f'Part7{suffix}')
  source = opened('ksdd', tmp_path)
  parts = [s.id for s in source.list_samples('fold_0', 'test') if s.id.startswith('kos21')]
  assert parts == ['kos21_Part0.jpg', 'kos21_Part1.jpg', 'kos21_Part2.jpg']


@pytest.mark.parametrize('suffix', ['png', 'bmp'])
def test_masks_of_btad_have_either_suffix(tmp_path, suffix):
  LAYOUTS['btad'](tmp_path)
  for mask in sorted((tmp_path / '03' / 'ground_truth' / 'ko').iterdir()):
    pixels = Image.open(mask).copy()
    mask.unlink()
    pixels.save(mask.with_suffix(f'.{suffix}'))
  masks = [s.mask.name for s in listed('btad', tmp_path) if s.label]
  assert masks == [f'000{i}.{suffix}' for i in range(3)]


def test_dagm_is_read_where_each_archive_has_a_folder_of_its_own(tmp_path):
  LAYOUTS['dagm'](tmp_path)
  expected = [s.id for s in listed('dagm', tmp_path)]
  (tmp_path / 'Class7').rename(tmp_path / 'x')
  (tmp_path / 'Class7').mkdir()
  (tmp_path / 'x').rename(tmp_path / 'Class7' / 'Class7')
  samples = listed('dagm', tmp_path)
  assert [s.id for s in samples] == expected
  assert samples[-1].mask == tmp_path / 'Class7/Class7/Test/Label/0005_label.PNG'
  assert opened('dagm', tmp_path).notes('Class7') == LEFT_OUT['dagm']


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('6\t1', r'line 4, is damaged'),
    ('6\t2\t0006.PNG\t0\t0', r'line 4, is damaged'),
    ('6\t0\t../Train/0006.PNG\t0\t0', r'line 4, is damaged'),
    ('6\t0\t..\t0\t0', r'line 4, is damaged'),
    ('6\t0\t\t0\t0', r'line 4, is damaged'),
    ('2\t0\t0002.PNG\t0\t0', r'line 4, repeats 0002\.PNG'),
    ('9\t0\t0009.PNG\t0\t0', r'no image .*Test/0009\.PNG, which Label/Labels\.txt lists'),
    ('6\t0\t0006\udcff\t0\t0', r'Labels\.txt cannot be read'),
    (None, r'There is no .*Test/Label/Labels\.txt, which says what is defective'),
  ],
)
def test_labels_of_dagm_are_checked(tmp_path, line, message):
  LAYOUTS['dagm'](tmp_path)
  path = tmp_path / 'Class7' / 'Test' / 'Label' / 'Labels.txt'
  lines = path.read_text().splitlines()
  path.unlink()
  if line is not None:
    path.write_text('\n'.join([*lines[:3], line, *lines[4:]]), errors='surrogateescape')
  with pytest.raises(UserError, match=message):
    listed('dagm', tmp_path)


def test_published_numbers_of_images():
  full = {'train': 2085, 'test_normal': 894, 'test_anomalous': 110}
  assert counts.differences('ksdd2', 'ksdd2', full) is None
  assert '893 test_normal images instead of 894' in counts.differences(
    'ksdd2', 'ksdd2', full | {'test_normal': 893}
  )
  # Of DAGM 2007 the halves alone are published, and of Real-IAD nothing by category.
  halves = {'train': 1000, 'test_normal': 1000, 'test_anomalous': 150}
  assert counts.differences('dagm', 'Class10', halves) is None
  assert counts.differences('dagm', 'Class1', halves) is not None
  assert counts.differences('real_iad', 'toy', halves) is None


def test_tfds_gives_the_arrays_of_the_reader(name, tmp_path):
  from memkd_jax.data.tfds.builder import prepare

  category, out = CATEGORIES[name], str(tmp_path / 'prepared')
  prepare(name, category, tmp_path, out)
  for split in ('train', 'test'):
    expected = load_split(listed(name, tmp_path, split), (32, 32), 2)
    given = load_split(prepared_files.list_samples(out, name, category, split), (32, 32), 2)
    assert [(s.id, s.defect) for s in given.samples] == [
      (s.id, s.defect) for s in expected.samples
    ]
    for field in ('images', 'labels', 'sizes', 'masks'):
      np.testing.assert_array_equal(getattr(given, field), getattr(expected, field), field)
