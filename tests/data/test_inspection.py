"""Data sets that are looked over: what is complete is, and each fault is named."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from benchmark_layouts import LAYOUTS as OF_BENCHMARKS
from benchmark_layouts import Maker
from inspection_layouts import LAYOUTS as OF_INSPECTION
from PIL import Image

from memkd_jax.data import decoding
from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.findings import KINDS, by_kind
from memkd_jax.data.inspection import inspect
from memkd_jax.data.recognition import recognise
from memkd_jax.data.sample import files_of
from memkd_jax.errors import UserError

LAYOUTS = OF_BENCHMARKS | OF_INSPECTION
# Which have anomalous training images.
LEFT_OUT = {'ksdd': 5, 'ksdd2': 3, 'vad': 4, 'dagm': 2}
# Whose labels are read off label images, which all images have.
LABEL_IMAGES = ('ksdd', 'ksdd2')
FOLDERS = {'ksdd': '', 'ksdd2': '', 'real_iad': 'realiad_1024/audiojack'}


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
  """Miniature copies, {name: folder}."""
  roots = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
  for name, make in LAYOUTS.items():
    make(roots[name])
  return roots


@pytest.fixture(params=LAYOUTS)
def copy(request, originals, tmp_path):
  """A miniature copy to damage."""
  root = tmp_path / 'copy'
  shutil.copytree(originals[request.param], root)
  return Copy(root, request.param)


class Copy:
  """A data set in a folder, and what is found in it."""

  def __init__(self, root: Path, name: str):
    self.root, self.name = root, name
    self.categories = [
      c.name for c in inspect(root, name, decode=False).categories if c.is_there
    ]
    self.folder = root / FOLDERS.get(name, self.categories[0])

  def samples(self, split='test', label=1):
    found = DATASETS[self.name].list_samples(self.root, self.categories[0], split)
    return [sample for sample in found if sample.label == label]

  def found(self, **options):
    """{kind: findings}, without numbers, which are a miniature's, and what is left out."""
    found = by_kind(inspect(self.root, self.name, self.categories, **options).findings)
    return {kind: some for kind, some in found.items() if kind not in ('count', 'left out')}

  def only(self, kind, **options):
    """What was found, which is all of a kind."""
    found = {k: f for k, f in self.found(**options).items() if KINDS[k].is_fault}
    assert list(found) == [kind]
    return found[kind]


def paths(findings):
  return [finding.path for finding in findings]


def test_a_whole_copy_is_recognised_and_nothing_is_wrong(copy):
  assert recognise(copy.root) == copy.name
  assert copy.found() == {}
  found = inspect(copy.root, copy.name, copy.categories)
  left_out = by_kind(found.findings).get('left out', [])
  if copy.name in LEFT_OUT:
    number = LEFT_OUT[copy.name]
    assert f'{copy.categories[0]}: {number} anomalous images, as only' in left_out[0].text
    assert found.categories[0].counts['train_anomalous'] == number
  else:
    assert left_out == []


def test_a_table_of_numbers_and_sizes(originals):
  found = inspect(originals['mvtec_3d'], 'mvtec_3d', ['bagel'])
  (bagel,) = found.categories
  assert bagel.counts == {
    'train': 9,
    'test_normal': 3,
    'test_anomalous': 4,
    'masks': 4,
    'validation': 2,
  }
  assert dict(bagel.sizes) == {(32, 32): 18}
  (finding,) = found.findings
  assert finding.kind == 'count'
  assert '9 train images instead of 244, 2 validation images instead of 22' in finding.text


def test_published_numbers_of_images_are_no_fault(originals, monkeypatch):
  from memkd_jax.data.benchmarks import counts

  numbers = {'train': 9, 'test_normal': 3, 'test_anomalous': 4, 'validation': 2, 'test': 7}
  monkeypatch.setattr(counts, '_published', lambda: {('mvtec_3d', 'bagel'): numbers})
  assert inspect(originals['mvtec_3d'], 'mvtec_3d', ['bagel']).faults == 0


def test_images_that_end_early(copy):
  image = copy.samples('train', 0)[0].image
  image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
  other = copy.samples()[0].image
  other.write_bytes(b'no image')
  findings = copy.only('broken image')
  assert sorted(paths(findings)) == sorted([str(image), str(other)])
  assert all('is not a readable image' in f.text for f in findings)
  assert not any(KINDS[kind].is_fault for kind in copy.found(decode=False))


def masked(copy):
  """Anomalous samples whose masks are single files."""
  samples = [s for s in copy.samples() if isinstance(s.mask, Path)]
  if len(samples) < 3:
    pytest.skip('has no three masks of one file each')
  return samples


def test_missing_masks_are_all_named(copy):
  samples = masked(copy)[:2]
  for sample in samples:
    sample.mask.unlink()
  findings = copy.only('missing mask', decode=False)
  assert paths(findings) == [str(sample.mask) for sample in samples]
  assert set(copy.found(decode=False)) == {'missing mask'}


def test_masks_that_do_not_fit(copy):
  first, second, third, *_ = masked(copy)
  width, height = (side + 5 for side in decoding.read_size(first.mask))
  Image.fromarray(np.full((height, width), 255, np.uint8)).save(first.mask)
  with Image.open(second.mask) as mask:
    empty = Image.fromarray(np.zeros_like(np.asarray(mask)))
  empty.save(second.mask)
  third.mask.write_bytes(third.mask.read_bytes()[:40])
  found = copy.found()
  expected = {'broken mask': third, 'other size': first, 'empty mask': second}
  if copy.name in LABEL_IMAGES:  # where it says that the image is normal
    del expected['empty mask']
    assert inspect(copy.root, copy.name, decode=False).categories[0].counts['masks'] == 2
  assert {kind: paths(some) for kind, some in found.items()} == {
    kind: [str(sample.mask)] for kind, sample in expected.items()
  }
  assert f'is {width} x {height} pixels, but its image' in found['other size'][0].text


def test_missing_categories(copy):
  gone = copy.folder
  if gone == copy.root:
    pytest.skip('its categories are no folders')
  shutil.rmtree(gone)
  if len(copy.categories) > 1:  # else nothing is left to tell it by
    assert recognise(copy.root) == copy.name
  findings = copy.only('missing category', decode=False)
  assert paths(findings) == [str(gone)]
  assert str(gone) in findings[0].text


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_missing_splits(copy, split):
  dataset, category = DATASETS[copy.name], copy.categories[0]
  if split == 'validation' and not dataset.has_validation:
    pytest.skip('has no such images')
  for sample in dataset.list_samples(copy.root, category, split):
    sample.image.unlink()
  found = copy.found(decode=False)
  assert str(copy.folder) in paths(found['missing split'])
  assert any(split in f.text or category in f.text for f in found['missing split'])
  assert recognise(copy.root) == copy.name


def test_an_image_of_both_splits(copy):
  test, train = copy.samples(label=0)[0].image, copy.samples('train', 0)[0].image
  shutil.copy(train, test)
  texts = {leak.path: leak.text for leak in copy.only('leak')}
  expected = {str(test): f'{test} is the same as {train}.'}
  if copy.name == 'ksdd':  # another fold tests what this one learns from, and the reverse
    expected[str(train)] = f'{train} is the same as {test}.'
  assert texts == expected


def test_files_that_no_split_lists(copy):
  beside = copy.samples('train', 0)[0].image.with_name('thing.part')
  beside.write_bytes(b'')
  elsewhere = copy.folder / 'more' / 'a.png'
  elsewhere.parent.mkdir(parents=True)
  shutil.copy(copy.samples('train', 0)[0].image, elsewhere)
  (copy.folder / 'readme.txt').write_text('A text.')
  found = copy.found()
  assert set(paths(found['unlisted'])) == {str(beside), str(elsewhere)}
  assert set(found) == {'unlisted'}


def test_images_unlike_the_rest(copy):
  image = copy.samples('train', 0)[0].image
  mode = 'RGB' if decoding.read_mode(image) == 'L' else 'L'
  Image.new(mode, (7, 11)).save(image)
  found = copy.found()
  for kind, text in (
    ('unusual size', ' is 7 x 11, most others are '),
    ('unusual mode', f' is {mode}, most others are '),
  ):
    assert paths(found[kind]) == [str(image)]
    assert text in found[kind][0].text


def test_folders_that_cannot_be_opened(originals, tmp_path, monkeypatch):
  shutil.copytree(originals['mvtec_ad'], tmp_path / 'copy')
  copy = Copy(tmp_path / 'copy', 'mvtec_ad')
  closed = copy.root / copy.categories[0] / 'test' / 'good'
  iterdir = Path.iterdir

  def refusing(folder):
    if folder == closed:
      raise PermissionError(13, 'Permission denied', str(folder))
    return iterdir(folder)

  monkeypatch.setattr(Path, 'iterdir', refusing)  # root may open all
  (finding,) = copy.only('unreadable folder', decode=False)
  assert finding.path == str(closed)
  closed = copy.root / copy.categories[0]
  findings = copy.found(decode=False)
  assert paths(findings['unreadable folder']) == [str(closed)]
  assert 'give this user access to it' in findings['missing split'][0].text


def test_all_of_visa_that_its_split_file_lists(originals, tmp_path):
  shutil.copytree(originals['visa'], tmp_path / 'copy')
  copy = Copy(tmp_path / 'copy', 'visa')
  *gone, broken = [s.image for s in copy.samples('train', 0)[:3]]
  for image in gone:
    image.unlink()
  assert paths(copy.only('missing file')) == list(map(str, gone))
  broken.write_bytes(b'')
  (copy.root / 'split_csv' / '1cls.csv').unlink()
  assert recognise(copy.root) == 'visa'
  found = copy.found()
  assert set(found) == {'missing split', 'broken image'}  # though nobody knows of which split
  (split,) = found['missing split']  # once, and not for each category and split
  assert str(copy.root / 'split_csv' / '1cls.csv') in split.text
  assert paths(found['broken image']) == [str(broken)]


def test_what_lies_beside_photographs(originals, tmp_path):
  shutil.copytree(originals['eyecandies'], tmp_path / 'sweets')
  copy = Copy(tmp_path / 'sweets', 'eyecandies')
  data = copy.root / 'CandyCane' / 'test_public' / 'data'
  (data / '000_depth.png').unlink()
  (data / '001_normals.png').write_bytes(b'no image')
  (data / '002_metadata.yaml').write_text('[1]')
  found = copy.found()
  assert {kind: paths(some) for kind, some in found.items()} == {
    'missing input': [str(data / '000_depth.png')],
    'broken input': [str(data / '001_normals.png')],
    'broken metadata': [str(data / '002_metadata.yaml')],
  }

  shutil.copytree(originals['mvtec_3d'], tmp_path / 'objects')
  copy = Copy(tmp_path / 'objects', 'mvtec_3d')
  train = copy.root / 'bagel' / 'train' / 'good'
  cloud = train / 'xyz' / '000.tiff'
  cloud.write_bytes(cloud.read_bytes()[:999])
  assert paths(copy.only('broken input')) == [str(cloud)]
  shutil.rmtree(train / 'xyz')
  assert [f.text for f in copy.found(decode=False)['no inputs']] == ['bagel: of split train.']


@pytest.mark.parametrize('name', ['mvtec_ad', 'mvtec_3d', 'eyecandies'])
def test_masks_of_normal_images(originals, tmp_path, name):
  shutil.copytree(originals[name], tmp_path / 'copy')
  copy = Copy(tmp_path / 'copy', name)
  image, size = copy.samples(label=0)[0].image, (32, 32)
  mask = {
    'mvtec_ad': image.parents[2] / 'ground_truth' / 'good' / f'{image.stem}_mask.png',
    'mvtec_3d': image.parents[1] / 'gt' / image.name,
    'eyecandies': image.with_name(image.name.replace('image_0', 'mask')),
  }[name]
  mask.parent.mkdir(exist_ok=True)
  Image.new('L', size).save(mask)
  assert copy.found() == {}
  Image.new('L', size, 255).save(mask)
  assert paths(copy.only('marked normal')) == [str(mask)]


def test_masks_with_soft_edges_are_no_fault(originals, tmp_path):
  shutil.copytree(originals['mvtec_ad'], tmp_path / 'copy')
  copy = Copy(tmp_path / 'copy', 'mvtec_ad')
  mask = copy.samples()[0].mask
  values = np.zeros((32, 32), np.uint8)
  values[8:20, 8:20], values[8] = 255, 90
  Image.fromarray(values).save(mask)
  (finding,) = copy.found()['soft mask']
  assert f'{mask} has 3 grey values in place of two' in finding.text


def test_no_mask_at_all(copy):
  if copy.name in (*LABEL_IMAGES, 'vad'):
    pytest.skip('has label images, or no masks')
  for sample in copy.samples():
    for file in files_of(sample.mask):
      file.unlink()
  if copy.name == 'mvtec_loco':
    shutil.rmtree(copy.folder / 'ground_truth')
  (finding,) = copy.only('no masks', decode=False)
  assert finding.path == str(copy.folder)
  assert f'none of {len(copy.samples())} anomalous images has a mask' in finding.text


def test_masks_without_an_image(originals, tmp_path):
  shutil.copytree(originals['mvtec_ad'], tmp_path / 'copy')
  copy = Copy(tmp_path / 'copy', 'mvtec_ad')
  (copy.root / copy.categories[1] / 'ground_truth' / 'broken_large' / 'x_mask.png').touch()
  assert 'x_mask.png has no image' in copy.found(decode=False)['mask without image'][0].text


def test_images_of_ones_own(tmp_path, make_category):
  make_category(tmp_path / 'parts', 'bolt')
  assert recognise(tmp_path / 'parts') == 'folder'
  flat = tmp_path / 'flat' / 'nut' / 'train' / '0.png'
  flat.parent.mkdir(parents=True)
  flat.touch()
  with pytest.raises(UserError, match=r'but a category of one: .*--categories=nut'):
    recognise(tmp_path / 'flat' / 'nut')
  found = inspect(tmp_path / 'parts', 'folder')
  assert (found.faults, [c.name for c in found.categories]) == (0, ['bolt'])
  mask = next((tmp_path / 'parts').rglob('*_mask.png'))
  mask.unlink()
  assert list(by_kind(inspect(tmp_path / 'parts', 'folder').findings)) == ['some masks']

  good = tmp_path / 'parts' / 'bolt' / 'train' / 'good'
  assert recognise(good) == 'images'
  (good / 'broken.png').write_bytes(b'')
  (good / 'photo.heic').write_bytes(b'')
  found = by_kind(inspect(good, 'images').findings)
  assert {kind: paths(some) for kind, some in found.items()} == {
    'broken image': [str(good / 'broken.png')],
    'unlisted': [str(good / 'photo.heic')],
  }
  table = tmp_path / 'table.csv'
  with table.open('w', newline='') as file:
    csv.writer(file).writerows([['path'], *([str(p)] for p in sorted(good.glob('0*.png')))])
  assert recognise(table) == 'images'
  assert inspect(table, 'images').faults == 0

  make = Maker(tmp_path / 'objects')
  for folder in ('train/good', 'test/good'):
    for i in range(2):
      make.image(f'cup/{folder}/rgb/{i}.png')
      make.cloud(f'cup/{folder}/xyz/{i}.tiff')
  assert recognise(tmp_path / 'objects') == 'folder_3d'
  assert inspect(tmp_path / 'objects', 'folder_3d').findings == []


def test_what_is_no_benchmark_though_it_is_called_so(tmp_path, make_category):
  make_category(tmp_path / 'few', 'bottle')
  assert recognise(tmp_path / 'few') == 'mvtec_ad'
  for name in ('nut', 'washer'):
    make_category(tmp_path / 'few', name)
  assert recognise(tmp_path / 'few') == 'folder'  # where most are of another name
  folder = tmp_path / 'many' / 'toothbrush' / 'train' / 'good'
  folder.mkdir(parents=True)
  for i in range(61):
    (folder / f'{i}.png').touch()
  assert recognise(tmp_path / 'many') == 'folder'  # more than were published
  (folder / '0.png').unlink()
  assert recognise(tmp_path / 'many') == 'mvtec_ad'


def test_what_is_not_recognised(originals, tmp_path):
  root = originals['visa']

  def message(folder):
    with pytest.raises(UserError) as error:
      recognise(folder)
    return str(error.value)

  assert message(root / 'candle').endswith(
    f'but a category of one: memkd datasets check {root} --categories=candle.'
  )
  shutil.copytree(root, tmp_path / 'VisA')
  (tmp_path / 'aside').mkdir()
  assert f'but {tmp_path / "VisA"} is (visa): memkd datasets check' in message(tmp_path)
  assert 'nor an image' in message(tmp_path / 'aside')
  (tmp_path / 'aside' / 'visa.tar').touch()
  assert f'but an archive: extract {tmp_path}/aside/visa.tar first' in message(
    tmp_path / 'aside'
  )
  assert 'There is no folder' in message(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='can have no category nut; known are candle, capsules'):
    inspect(root, 'visa', ['nut', 'candle'])
  with pytest.raises(UserError, match='There is no folder'):
    inspect(tmp_path / 'nowhere', 'visa')
