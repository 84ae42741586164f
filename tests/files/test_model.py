import json

import numpy as np
import pytest
from safetensors.numpy import save

from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.files.digest import DIGEST, digest

PARAMS = {
  'student': {'conv': {'kernel': np.arange(12, dtype=np.float32).reshape(3, 4)}},
  'memory_m1': {'keys': np.float16([[0.5, -2]]), 'values': np.float64([[1e-300]])},
  'count': np.int32(7),
}
FACTS = {'name': 'bolt', 'config': {'seeds': [0, 1]}, 'calibration': None}


@pytest.fixture
def folder(tmp_path):
  model.write(tmp_path / 'bolt', PARAMS, FACTS)
  return tmp_path / 'bolt'


def read(folder):
  facts = model.read_facts(folder)
  return model.parse_params(model.read_bytes(folder), facts), facts


def test_a_model_comes_back(folder):
  assert sorted(p.name for p in folder.iterdir()) == ['model.json', 'model.safetensors']
  assert model.exists(folder)
  params, facts = read(folder)
  assert {name: facts[name] for name in FACTS} == FACTS
  found, expected = model.flatten_dict(params), model.flatten_dict(PARAMS)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


def test_arrays_of_any_layout_in_memory_are_written_as_they_are_indexed(tmp_path):
  for array in (np.arange(6).reshape(2, 3).T, np.arange(6)[::-2]):
    model.write(tmp_path, {'x': array}, {})
    np.testing.assert_array_equal(read(tmp_path)[0]['x'], array)


def test_a_model_is_replaced(folder):
  model.write(folder, {'x': np.zeros(3)}, {'name': 'nut'})
  params, facts = read(folder)
  assert list(params) == ['x'] and facts['name'] == 'nut'


def test_facts_change_beside_arrays_that_stay(folder):
  before = (folder / model.TENSORS).read_bytes()
  model.write_facts(folder, model.read_facts(folder) | {'name': 'nut'})
  params, facts = read(folder)
  assert facts['name'] == 'nut' and facts['config'] == FACTS['config']
  assert params['count'] == 7
  assert (folder / model.TENSORS).read_bytes() == before


def test_there_is_none_before_its_last_file(tmp_path):
  assert not model.exists(tmp_path)
  with pytest.raises(FileNotFoundError):
    model.read_facts(tmp_path)
  with pytest.raises(FileNotFoundError):
    model.read_bytes(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{}', '{"sha256": "0"}', '[' * 200_000])
def test_damaged_facts(folder, text):
  (folder / model.FACTS).write_text(text)
  with pytest.raises(ValueError):
    model.read_facts(folder)


def test_facts_that_were_changed_by_hand(folder):
  path = folder / model.FACTS
  path.write_text(path.read_text().replace('bolt', 'nut'))
  with pytest.raises(ValueError, match='its checksum is wrong'):
    model.read_facts(folder)


def test_a_later_format_is_not_called_damage(folder):
  facts = json.loads((folder / model.FACTS).read_text()) | {'format': 2}
  (folder / model.FACTS).write_text(json.dumps(facts | {DIGEST: digest(facts)}))
  with pytest.raises(UserError, match=r'model\.json is of format 2, and this release reads 1'):
    model.read_facts(folder)


def test_damaged_arrays(folder):
  facts, content = model.read_facts(folder), model.read_bytes(folder)
  flipped = bytearray(content)
  flipped[-1] ^= 1
  for damaged in (b'', content[:-1], content + b'\0', bytes(flipped), b'\xff' * 99):
    with pytest.raises(ValueError):
      model.parse_params(damaged, facts)


def test_arrays_of_another_model(folder):
  facts = model.read_facts(folder)
  other = {name: x + 1 for name, x in model.flatten_dict(PARAMS, sep='/').items()}
  renamed = {f'{name}x': x for name, x in model.flatten_dict(PARAMS, sep='/').items()}
  for tensors in (other, renamed):
    content = save({name: np.asarray(x) for name, x in tensors.items()})
    with pytest.raises(ValueError, match=r'not those that model\.json was written for'):
      model.parse_params(content, facts)


def test_the_same_arrays_are_one_file_with_several_names(folder, tmp_path, monkeypatch):
  def inode(name):
    return (tmp_path / name / model.TENSORS).stat().st_ino

  model.write(tmp_path / 'nut', PARAMS, FACTS | {'name': 'nut'}, [tmp_path / 'none', folder])
  assert inode('nut') == inode('bolt')
  assert read(tmp_path / 'nut')[1]['name'] == 'nut'
  other = PARAMS | {'count': np.int32(8)}
  model.write(tmp_path / 'other', other, FACTS, [folder])
  assert inode('other') != inode('bolt') and read(tmp_path / 'other')[0]['count'] == 8
  # Replacing one leaves the other as it is.
  model.write(folder, other, FACTS)
  assert inode('nut') != inode('bolt') and read(tmp_path / 'nut')[0]['count'] == 7

  monkeypatch.setattr(model.os, 'link', lambda *_: (_ for _ in ()).throw(OSError('no links')))
  model.write(tmp_path / 'copy', PARAMS, FACTS, [tmp_path / 'nut'])
  assert inode('copy') != inode('nut') and read(tmp_path / 'copy')[0]['count'] == 7


def test_damaged_arrays_get_no_further_name(folder, tmp_path):
  path = folder / model.TENSORS
  path.write_bytes(path.read_bytes()[:-1] + b'x')
  model.write(tmp_path / 'nut', PARAMS, FACTS, [folder])
  assert read(tmp_path / 'nut')[0]['count'] == 7
