from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from memkd_jax.errors import UserError
from memkd_jax.teachers import weights


@pytest.fixture
def params():
  return weights.random_teacher('tiny_basic')


def test_what_is_saved_comes_back(tmp_path, params):
  path = tmp_path / 'teacher.safetensors'
  weights.save_teacher(path, 'tiny_basic', params, {'origin': 'test'})
  arch, loaded = weights.load(path)
  assert arch == 'tiny_basic'
  assert weights.flatten_dict(loaded).keys() == weights.flatten_dict(params).keys()
  np.testing.assert_array_equal(
    loaded['stem']['conv']['kernel'], params['stem']['conv']['kernel']
  )
  metadata = weights.read_metadata(path)
  assert len(metadata.pop('tensors_sha256')) == 64
  assert metadata == {'arch': 'tiny_basic', 'stages': [1, 2, 3, 4], 'origin': 'test'}


def test_all_mismatches_are_named_at_once(tmp_path, params):
  params['stem']['conv']['bias'] = params['stem']['conv']['bias'][:2]
  params['stage1']['block0']['conv1']['conv']['kernel'] = params['stage1']['block0']['conv1'][
    'conv'
  ]['kernel'].astype(np.float64)
  params['stage2']['block0']['conv1']['conv']['bias'][0] = np.nan
  del params['stage3']['block0']['conv2']
  params['head'] = {'bias': np.zeros(3, np.float32)}
  path = tmp_path / 'teacher.safetensors'
  weights.save_teacher(path, 'tiny_basic', params, {})
  with pytest.raises(UserError) as error:
    weights.load(path)
  for part in (
    str(path),
    'stem/conv/bias has shape (2,) instead of (4,)',
    'stage1/block0/conv1/conv/kernel is float64 instead of float32 or bfloat16',
    'stage2/block0/conv1/conv/bias has values that are not finite',
    'stage3/block0/conv2/conv/kernel is missing',
    'head/bias does not belong to tiny_basic',
    'python tools/convert_torchvision.py --arch=tiny_basic',
  ):
    assert part in str(error.value)


def test_other_files_are_refused(tmp_path, params):
  with pytest.raises(UserError, match=r'no teacher at .*convert_torchvision\.py'):
    weights.load(tmp_path / 'gone.safetensors')
  (tmp_path / 'broken.safetensors').write_bytes(b'\xff' * 64)
  with pytest.raises(UserError, match='not a readable safetensors file'):
    weights.load(tmp_path / 'broken.safetensors')
  save_file({'conv1.weight': np.zeros(3, np.float32)}, tmp_path / 'raw.safetensors')
  with pytest.raises(UserError, match='not a converted teacher'):
    weights.load(tmp_path / 'raw.safetensors')
  weights.save_teacher(tmp_path / 'other.safetensors', 'vgg', params, {})
  with pytest.raises(UserError, match="unknown architecture 'vgg'"):
    weights.load(tmp_path / 'other.safetensors')


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path, params):
  whole, cut = tmp_path / 'whole.safetensors', tmp_path / 'cut.safetensors'
  weights.save_teacher(whole, 'tiny_basic', params, {})
  content = whole.read_bytes()
  for size in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
    cut.write_bytes(content[:size])
    with pytest.raises(UserError, match=r'cut\.safetensors is not a readable'):
      weights.load(cut)
  lying = (2**40).to_bytes(8, 'little') + content[8:]
  cut.write_bytes(lying)
  with pytest.raises(UserError, match=r'cut\.safetensors is not a readable'):
    weights.load(cut)


def test_an_interrupted_write_leaves_nothing(tmp_path, params, monkeypatch):
  def interrupted(path, content):
    with open(path, 'wb') as file:
      file.write(content[:100])
    raise KeyboardInterrupt

  monkeypatch.setattr(Path, 'write_bytes', interrupted)
  with pytest.raises(KeyboardInterrupt):
    weights.save_teacher(tmp_path / 'teacher.safetensors', 'tiny_basic', params, {})
  assert list(tmp_path.iterdir()) == []
