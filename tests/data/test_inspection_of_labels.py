"""What else is found in data sets whose readers leave images out, or read split files."""

import shutil

import pytest
from benchmark_layouts import LAYOUTS as OF_BENCHMARKS
from inspection_layouts import LAYOUTS as OF_INSPECTION
from PIL import Image

from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.findings import by_kind
from memkd_jax.data.inspection import inspect
from memkd_jax.data.recognition import recognise
from memkd_jax.data.survey import surveyed

LAYOUTS = OF_BENCHMARKS | OF_INSPECTION


@pytest.fixture
def root(request, tmp_path):
  """A miniature of the data set that is the parameter."""
  LAYOUTS[request.param](tmp_path)
  return tmp_path


def of(*names):
  return pytest.mark.parametrize(
    ('root', 'name'), [(name, name) for name in names], indirect=['root']
  )


def look(root, name, categories=None, **options):
  """{kind: paths}, without the numbers and what is left out."""
  there = [c.name for c in inspect(root, name, decode=False).categories if c.is_there]
  found = by_kind(inspect(root, name, categories or there, **options).findings)
  kinds = found.keys() - {'count', 'left out'}
  return {kind: [finding.path for finding in found[kind]] for kind in kinds}


def listed(root, name, split, label):
  dataset = DATASETS[name]
  samples = dataset.list_samples(root, dataset.categories[0], split)
  return [sample for sample in samples if sample.label == label]


@of('real_iad', 'dagm')
def test_all_images_that_are_missing_are_named(root, name):
  gone = [listed(root, name, 'train', 0)[0], listed(root, name, 'test', 1)[0]]
  for sample in gone:
    sample.image.unlink()
  expected = [str(sample.image) for sample in gone]
  # The mask that has lost its image is no further finding.
  assert look(root, name) == {'missing file': expected}
  for sample in listed_in_survey(root, name):
    sample.image.unlink()
  found = look(root, name)
  assert found.keys() == {'missing file', 'missing split'}
  assert len(found['missing file']) == 9 + 1


def listed_in_survey(root, name):
  with surveyed():
    return listed(root, name, 'train', 0)


@of('ksdd', 'ksdd2')
def test_what_is_wrong_with_label_images(root, name):
  first, second, third, *_ = listed(root, name, 'train', 0)
  ending = {'ksdd': '_label.bmp', 'ksdd2': '_GT.png'}[name]
  labels = [s.image.with_name(f'{s.image.stem}{ending}') for s in (first, second, third)]
  labels[0].write_bytes(b'broken')
  second.image.unlink()
  Image.new('L', (9, 9)).save(labels[2])
  assert look(root, name) == {
    'broken mask': [str(labels[0])],
    'mask without image': [str(labels[1])],
    'other size': [str(labels[2])],
  }
  labels[0].unlink()
  assert look(root, name, decode=False) == {
    'missing mask': [str(labels[0])],
    'mask without image': [str(labels[1])],
  }


@of('ksdd', 'ksdd2', 'vad', 'dagm')
def test_images_that_are_left_out_are_decoded(root, name):
  image = {
    'ksdd': 'kos01/Part1.jpg',
    'ksdd2': 'train/10000.png',
    'vad': 'vad/train/bad/0000.png',
    'dagm': 'Class1/Train/0014.PNG',
  }[name]
  assert image not in {
    s.image.relative_to(root).as_posix() for s in listed(root, name, 'train', 0)
  }
  (root / image).write_bytes(b'broken')
  assert look(root, name) == {'broken image': [str(root / image)]}


@of('dagm')
def test_an_anomalous_training_image_that_is_missing(root, name):
  image = root / 'Class1' / 'Train' / '0014.PNG'
  image.unlink()
  assert look(root, name) == {'missing file': [str(image)]}
  assert len(listed(root, name, 'train', 0)) == 9  # a training can do without


@of('ksdd')
def test_what_the_publisher_passes_over_is_not_unlisted(root, name):
  (root / 'kos01').rename(root / 'kos21')
  for ending in ('.jpg', '_label.bmp'):
    (root / 'kos21' / f'Part2{ending}').rename(root / 'kos21' / f'Part7{ending}')
  assert look(root, name) == {}


@of('real_iad')
def test_other_sizes_of_the_images_are_not_unlisted(root, name):
  shutil.copytree(root / 'realiad_1024', root / 'realiad_512')
  assert look(root, name) == {}
  (root / 'realiad_512' / 'audiojack').rename(root / 'realiad_512' / 'else')
  found = by_kind(inspect(root, name, decode=False).findings)
  assert len(found['unlisted']) == 9 + 7 + 4  # images of both splits, and masks
  assert all(f.path.startswith(f'{root}/realiad_512/else/') for f in found['unlisted'])


@of('real_iad')
def test_a_split_file_that_is_missing_leaves_the_category_there(root, name):
  (root / 'realiad_jsons' / 'audiojack.json').unlink()
  broken = sorted((root / 'realiad_1024' / 'audiojack').rglob('*.jpg'))[0]
  broken.write_bytes(b'broken')
  assert look(root, name) == {
    'missing split': [str(root / 'realiad_1024' / 'audiojack')],
    'broken image': [str(broken)],
  }
  shutil.rmtree(root / 'realiad_jsons')
  assert recognise(root) == name


@of('ksdd2')
def test_a_folder_that_is_missing_is_a_split(root, name):
  shutil.rmtree(root / 'train')
  assert recognise(root) == name
  found = by_kind(inspect(root, name, decode=False).findings)
  assert [f'{root}/train' in f.text for f in found['missing split']] == [True]


@of('mvtec_ad_2')
def test_images_whose_labels_are_kept_are_decoded_and_counted(root, name):
  image = root / 'can' / 'test_private' / '001_regular.png'
  image.write_bytes(b'broken')
  assert look(root, name) == {'broken image': [str(image)]}
  can = inspect(root, name, ['can']).categories[0]
  (text,) = (finding.text for finding in can.findings if finding.kind == 'count')
  assert 'can has 6 unlabelled images instead of 642, the published numbers' in text
  assert can.counts['unlabelled'] == 6
  assert sum(can.sizes.values()) == 9 + 2 + 6  # which are not those of the others
  stray = root / 'can' / 'train' / 'good' / '000_regular_copy.tmp'
  stray.touch()
  assert look(root, name)['unlisted'] == [str(stray)]
  (root / 'can' / 'test_private_mixed' / 'folder.png').mkdir()
  found = by_kind(inspect(root, name, ['can'], decode=False).findings)
  assert [f.path for f in found['missing split']] == [str(root / 'can')]
  assert 'folder.png is a folder' in found['missing split'][0].text
