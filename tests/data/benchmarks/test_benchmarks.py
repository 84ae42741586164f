"""The readers on miniature copies of what the publishers ship."""

import shutil

import pytest
from benchmark_layouts import LAYOUTS

from memkd_jax.data.benchmarks import counts
from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.sample import files_of
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError

FIRST = {
  'mvtec_ad': 'bottle',
  'visa': 'candle',
  'mpdd': 'tubes',
  'mvtec_3d': 'bagel',
  'eyecandies': 'CandyCane',
  'mvtec_loco': 'pushpins',
  'mvtec_ad_2': 'can',
}
DEFECTS = {
  'mvtec_ad': {'good', 'broken_large', 'contamination'},
  'visa': {'good', 'anomaly'},
  'mpdd': {'good', 'broken_large', 'contamination'},
  'mvtec_3d': {'good', 'combined', 'hole'},
  'eyecandies': {'good', 'bumps+colors', 'colors', 'colors+dents'},
  'mvtec_loco': {'good', 'logical_anomalies', 'structural_anomalies'},
  'mvtec_ad_2': {'good', 'bad'},
}


def list_samples(name, root, split='test'):
  return DATASETS[name].list_samples(root, FIRST[name], split)


@pytest.mark.parametrize('name', LAYOUTS)
def test_every_layout_is_read(tmp_path, name):
  LAYOUTS[name](tmp_path)
  train, test = list_samples(name, tmp_path, 'train'), list_samples(name, tmp_path)
  assert len(train) == 9
  assert [s.label for s in train] == [0] * 9
  assert {s.defect for s in test} == DEFECTS[name]
  assert len({s.id for s in test}) == len(test)
  assert sum(s.label == 0 for s in test) == 3
  for sample in test:
    assert (sample.mask is not None) == (sample.label == 1)
  arrays = load_split(test, (32, 32), 2)
  # Class ids 1, 2, 3 are defects as 255 is.
  assert arrays.masks.any((1, 2)).tolist() == (arrays.labels == 1).tolist()
  assert not {str(s.image) for s in test} & {str(s.image) for s in train}


@pytest.mark.parametrize('name', [n for n in LAYOUTS if DATASETS[n].has_validation])
def test_the_validation_split_is_listed(tmp_path, name):
  LAYOUTS[name](tmp_path)
  assert [s.label for s in list_samples(name, tmp_path, 'validation')] == [0, 0]


def test_the_first_light_of_eyecandies_is_taken(tmp_path):
  LAYOUTS['eyecandies'](tmp_path)
  samples = list_samples('eyecandies', tmp_path)
  assert samples[1].id == 'test_public/001_image_0.png'
  assert samples[1].mask.name == '001_mask.png'


@pytest.mark.parametrize('name', LAYOUTS)
def test_masks_are_all_there_or_none(tmp_path, name):
  LAYOUTS[name](tmp_path)
  masks = [f for s in list_samples(name, tmp_path) if s.label for f in files_of(s.mask)]
  masks[0].unlink()
  expected = r'\*\.png are' if name == 'mvtec_loco' else f'{masks[0].name} is'
  with pytest.raises(UserError, match=rf'has no masks?: .*{expected} expected'):
    list_samples(name, tmp_path)
  if name in ('mvtec_ad', 'mpdd', 'mvtec_loco'):
    truth = next(p for p in masks[0].parents if p.name == 'ground_truth')
    shutil.rmtree(truth)
  for mask in masks:
    mask.unlink(missing_ok=True)
  samples = list_samples(name, tmp_path)
  assert all(s.mask is None for s in samples)
  assert sum(s.label for s in samples) >= 3


@pytest.mark.parametrize('name', LAYOUTS)
def test_an_empty_split_is_named(tmp_path, name):
  LAYOUTS[name](tmp_path)
  for sample in list_samples(name, tmp_path, 'train'):
    sample.image.unlink()
  message = 'which .* lists, is missing' if name == 'visa' else 'There are no images in .*train'
  with pytest.raises(UserError, match=message):
    list_samples(name, tmp_path, 'train')


def test_split_files_of_visa_are_checked(tmp_path):
  LAYOUTS['visa'](tmp_path)
  path = tmp_path / 'split_csv' / '1cls.csv'
  rows = path.read_text().splitlines()
  path.write_text('\n'.join(row for row in rows if not row.startswith('candle')))
  with pytest.raises(UserError, match=r'1cls\.csv lists no test image of candle'):
    list_samples('visa', tmp_path)
  for damaged in ('candle,test', 'candle,test,normal,pcb1/Data/Images/Normal/0000.JPG,'):
    path.write_text('\n'.join([*rows[:3], damaged]))
    with pytest.raises(UserError, match=r'1cls\.csv, line 4, is damaged'):
      list_samples('visa', tmp_path)
  path.write_text('a,b\n1,2\n')
  with pytest.raises(UserError, match=r'1cls\.csv has no column object, split'):
    list_samples('visa', tmp_path)
  path.write_bytes(b'object,split\xff\xfe')
  with pytest.raises(UserError, match=r'1cls\.csv cannot be read'):
    list_samples('visa', tmp_path)
  path.unlink()
  with pytest.raises(UserError, match=r'no split file .*1cls\.csv'):
    list_samples('visa', tmp_path)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, r'There is no .*001_metadata\.yaml'),
    ('[1, 2]', r'001_metadata\.yaml is not readable metadata'),
    ('anomaly: [', r'001_metadata\.yaml is not readable metadata'),
    ('anomaly: yes?', r'001_metadata\.yaml is not readable metadata'),
    ('!!python/object/apply:os.system ["x"]', r'001_metadata\.yaml is not readable metadata'),
  ],
)
def test_metadata_of_eyecandies_are_checked(tmp_path, content, message):
  LAYOUTS['eyecandies'](tmp_path)
  path = tmp_path / 'CandyCane' / 'test_public' / 'data' / '001_metadata.yaml'
  path.unlink()
  if content is not None:
    path.write_text(content)
  with pytest.raises(UserError, match=message):
    list_samples('eyecandies', tmp_path)


def test_the_real_split_of_visa_agrees_with_the_published_counts(tmp_path, shared):
  shutil.copytree(shared / 'data' / 'visa_split_csv', tmp_path / 'split_csv')
  from memkd_jax.data.benchmarks import visa

  rows = visa._read_split(tmp_path)
  for category in visa.CATEGORIES:
    of = [(r['split'], r['label']) for r in rows if r['object'] == category]
    found = {
      'train': of.count(('train', 'normal')),
      'test_normal': of.count(('test', 'normal')),
      'test_anomalous': of.count(('test', 'anomaly')),
    }
    assert counts.differences('visa', category, found) is None


def test_counts(tmp_path):
  full = {'train': 209, 'test_normal': 20, 'test_anomalous': 63}
  assert counts.differences('mvtec_ad', 'bottle', full) is None
  assert counts.differences('folder', 'bottle', full) is None
  assert counts.differences('mvtec_ad', 'bottle', full | {'train': 200}) == (
    'bottle has 200 train images instead of 209, the published numbers: is it complete?'
  )
  # Of MVTec 3D-AD only the sum of normal and anomalous is published.
  bagel = {'train': 244, 'test_normal': 22, 'test_anomalous': 88}
  assert counts.differences('mvtec_3d', 'bagel', bagel) is None
  assert '111 test images instead of 110' in counts.differences(
    'mvtec_3d', 'bagel', bagel | {'test_normal': 23}
  )
  published = counts._published()
  assert all(c in DATASETS[d].categories and published[d, c] for d, c in published)
  for name in ('mvtec_ad', 'visa', 'mpdd', 'mvtec_3d', 'eyecandies', 'mvtec_loco', 'dagm'):
    assert all((name, c) in published for c in DATASETS[name].categories)
  visa = [c['train'] for (d, _), c in published.items() if d == 'visa']
  assert sum(visa) == 8659
