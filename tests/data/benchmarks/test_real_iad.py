"""The split files, sizes and objects of Real-IAD; `test_inspection.py` has its layout."""

import json
import os
import shutil

import inspection_layouts
import pytest

from memkd_jax.data.benchmarks import real_iad
from memkd_jax.data.datasets import DATASETS, open_source
from memkd_jax.errors import UserError


def opened(root):
  return open_source('real_iad', 'folder', str(root))


def listed(root, split='test'):
  return opened(root).list_samples('zipper', split)


def refused(root, category='zipper'):
  with pytest.raises(UserError) as error:
    opened(root).list_samples(category, 'train')
  return str(error.value)


def test_views_of_real_iad_have_labels_of_their_own(tmp_path):
  inspection_layouts.real_iad(tmp_path)
  labels = {s.id.split('/', 1)[0]: [] for s in listed(tmp_path)}
  for sample in listed(tmp_path):
    labels[sample.id.split('/', 1)[0]].append(sample.label)
  assert labels == {'OK': [0, 0], 'NG': [1, 1, 0, 1, 1]}


def test_views_of_real_iad_are_of_one_object(tmp_path):
  """S0001 is in OK/, in NG/BX/ and in NG/HS/, and each time another part."""
  inspection_layouts.real_iad(tmp_path)
  object_of = DATASETS['real_iad'].object_of
  train, test = ([object_of(s) for s in listed(tmp_path, split)] for split in ('train', 'test'))
  assert train == ['OK/S0001'] * 5 + ['OK/S0002'] * 4
  assert test == ['OK/S0003'] * 2 + ['NG/BX/S0001'] * 3 + ['NG/HS/S0001'] * 2
  others = (d for name, d in DATASETS.items() if name != 'real_iad')
  assert all(dataset.object_of is None for dataset in others)


def test_sizes_of_real_iad_are_read_in_order(tmp_path):
  for size in real_iad.SIZES[::-1]:
    inspection_layouts.real_iad(tmp_path, ('audiojack', 'zipper'), size)
    assert {s.image.parents[3].name for s in listed(tmp_path, 'train')} == {size}
  note = opened(tmp_path).notes('zipper')[0]
  assert note == (
    'zipper: the images of realiad_1024 are read, not those of realiad_512 and realiad_256 and '
    'realiad_raw.'
  )
  shutil.rmtree(tmp_path / 'realiad_1024' / 'zipper')
  assert (
    opened(tmp_path).notes('zipper')[0].startswith('zipper: the images of realiad_512 are read')
  )
  assert 'There is no folder' in refused(tmp_path, 'toy')
  (tmp_path / 'realiad_1024' / 'toy.zip').write_bytes(b'')
  assert 'realiad_1024/toy.zip first' in refused(tmp_path, 'toy')


def test_split_files_of_real_iad_may_be_in_a_folder_of_their_archive(tmp_path):
  inspection_layouts.real_iad(tmp_path)
  expected = listed(tmp_path)
  (tmp_path / 'realiad_jsons').rename(tmp_path / 'x')
  assert 'There is no split file' in refused(tmp_path)
  (tmp_path / 'realiad_jsons').mkdir()
  (tmp_path / 'x').rename(tmp_path / 'realiad_jsons' / 'realiad_jsons')
  assert listed(tmp_path) == expected


def test_defects_are_not_learned_from_whatever_the_split_file_says(tmp_path):
  """As in the publisher's files with noise, realiad_jsons_fuiad_0.1 and others."""
  inspection_layouts.real_iad(tmp_path)
  path = tmp_path / 'realiad_jsons' / 'zipper.json'
  document = json.loads(path.read_text())
  document['train'].append(document['test'].pop())
  path.write_text(json.dumps(document))
  assert len(listed(tmp_path, 'train')) == 9
  assert opened(tmp_path).notes('zipper')[1] == (
    'zipper: 1 anomalous training image left out (realiad_jsons/zipper.json), as only normal '
    'ones are learned from.'
  )


def changed(**values):
  return lambda document: document['test'][1].update(values)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (changed(image_path='../../secret/x.jpg'), 'entry 2 of test names no file of zipper'),
    (changed(image_path='/etc/passwd'), 'entry 2 of test names no file of zipper'),
    (changed(image_path='OK/./x.jpg'), 'entry 2 of test names no file of zipper'),
    (changed(image_path='OK\\..\\x.jpg'), 'entry 2 of test names no file of zipper'),
    (changed(image_path='x.jpg'), 'entry 2 of test names no file of zipper'),
    (changed(image_path='OK/S1/\n.jpg'), 'entry 2 of test names no file of zipper'),
    (changed(image_path=None), 'entry 2 of test names no file of zipper'),
    (changed(image_path=['OK/x.jpg']), 'entry 2 of test names no file of zipper'),
    (changed(mask_path='OK/../../x.png'), 'entry 2 of test names no file of zipper'),
    (changed(mask_path=7), 'entry 2 of test names no file of zipper'),
    (changed(category='toy'), 'entry 2 of test is none of zipper'),
    (changed(anomaly_class='../x'), 'entry 2 of test has no anomaly_class'),
    (changed(anomaly_class='good'), 'entry 2 of test has no anomaly_class'),
    (changed(anomaly_class=1), 'entry 2 of test has no anomaly_class'),
    (lambda d: d['test'].__setitem__(1, 'x'), 'entry 2 of test is none of zipper'),
    (lambda d: d['test'].append(d['train'][0]), 'it lists an image twice'),
    (lambda d: d['meta'].update(prefix='../zipper/'), r'its meta\.prefix is not zipper/'),
    (lambda d: d['meta'].update(normal_class=None), r'its meta\.normal_class is no name'),
    (lambda d: d.update(meta=[]), 'it has not meta, train and test'),
    (lambda d: d.update(train={}), 'it has not meta, train and test'),
    (lambda d: d.pop('test'), 'it has not meta, train and test'),
  ],
)
def test_split_files_of_real_iad_are_checked(tmp_path, damage, message):
  inspection_layouts.real_iad(tmp_path)
  path = tmp_path / 'realiad_jsons' / 'zipper.json'
  document = json.loads(path.read_text())
  damage(document)
  path.write_text(json.dumps(document))
  with pytest.raises(UserError, match=rf'zipper\.json cannot be read \({message}\); take the'):
    listed(tmp_path, 'train')


@pytest.mark.parametrize('content', [b'', b'[', b'[1]', b'\xff', b'[' * 100_000, b'null'])
def test_split_files_of_real_iad_that_are_no_json(tmp_path, content):
  inspection_layouts.real_iad(tmp_path)
  (tmp_path / 'realiad_jsons' / 'zipper.json').write_bytes(content)
  assert 'zipper.json cannot be read' in refused(tmp_path)
  (tmp_path / 'realiad_jsons' / 'zipper.json').unlink()
  os.mkfifo(tmp_path / 'realiad_jsons' / 'zipper.json')
  assert 'cannot be read ([Errno 22] Not a regular file' in refused(tmp_path)
