import shlex
from pathlib import Path

import numpy as np
import pytest
import torch_files
from safetensors.numpy import save, save_file
from weights_server import serving

from memkd_jax import config as base
from memkd_jax.commands import weights as command
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
    'make another with `memkd weights --arch=tiny_basic --out=',
  ):
    assert part in str(error.value)


def test_other_files_are_refused(tmp_path, params):
  with pytest.raises(
    UserError, match=r'no teacher at .*make it with `memkd weights --arch=ARCH'
  ):
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


ARCH = 'tiny_basic'


@pytest.fixture
def follow(monkeypatch, rng, make_state_dict):
  """Does literally what the error of `load` says; returns where the teacher is then."""
  monkeypatch.setattr(command, 'BACKBONES', (*base.BACKBONES, ARCH, 'tiny_bottleneck'))

  def follow(path, arch=ARCH):
    with pytest.raises(UserError) as error:
      weights.load(path, arch)
    _, words, rest = str(error.value).split('`')
    program, name, *arguments = shlex.split(words)
    assert (program, name) == ('memkd', 'weights')
    with serving(monkeypatch, arch, save(make_state_dict(arch, rng))):
      assert command.main(arguments) == 0
    named = f'{path}' if rest == '.' else shlex.split(rest.removesuffix('.'))[-1]
    made = Path(named.removeprefix('--config.model.teacher_weights='))
    assert weights.load(made, arch)[0] == arch
    return made

  return follow


@pytest.mark.parametrize(
  'name', ['model.safetensors', f'{ARCH}.safetensors', 'a b.pth', 'x.pt']
)
def test_an_unconverted_file_stays_and_is_converted_beside(
  tmp_path, rng, make_state_dict, follow, name
):
  path, state = tmp_path / name, make_state_dict(ARCH, rng)
  if path.suffix == '.safetensors':
    save_file({f'module.{n}': x for n, x in state.items()}, path)
  else:
    torch_files.write(path, {'state_dict': torch_files.tensors(state)})
  content = path.read_bytes()
  made = follow(path)
  assert made.parent == tmp_path and made != path
  assert path.read_bytes() == content
  metadata = weights.read_metadata(made)
  assert metadata['source_sha256'] == weights.sha256(path)


def test_remedies_replace_nothing(tmp_path, follow, params):
  missing = tmp_path / 'deep' / 'teacher.safetensors'
  assert follow(missing) == missing
  broken, foreign = tmp_path / 'broken.safetensors', tmp_path / 'foreign.safetensors'
  broken.write_bytes(b'\xff' * 64)
  save_file({'a': np.zeros(3, np.float32)}, foreign)
  for path in (broken, foreign):
    content = path.read_bytes()
    assert follow(path) != path
    assert path.read_bytes() == content
  other = tmp_path / 'other.safetensors'
  weights.save_teacher(other, ARCH, params, {})
  assert follow(other, 'tiny_bottleneck') == tmp_path / 'tiny_bottleneck.safetensors'
  assert weights.load(other)[0] == ARCH
  made = {f'{ARCH}.safetensors', f'{ARCH}-2.safetensors', 'tiny_bottleneck.safetensors'}
  assert {p.name for p in tmp_path.iterdir()} == made | {
    'deep',
    'broken.safetensors',
    'foreign.safetensors',
    'other.safetensors',
  }


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
