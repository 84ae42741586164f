"""The folded teacher against an unfolded numpy network with torchvision's layout."""

import shlex
import sys

import numpy as np
import pytest
import torch_files
from safetensors.numpy import save_file

from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Teacher
from memkd_jax.teachers import conversion, torch_archive, weights

# A header that is longer than the file, and one whose tensor is.
_LYING_LENGTH = (1000).to_bytes(8, 'little') + b'{}'
_HEADER = b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,396]}}'
_LYING_OFFSETS = len(_HEADER).to_bytes(8, 'little') + _HEADER + b'\0' * 8
TINY = ['tiny_basic', 'tiny_bottleneck']


def slow_teacher(state, arch, image):
  """Convolution, BatchNorm and ReLU one after the other, NCHW, float64."""
  a = ARCHITECTURES[arch]
  state = {n: x.astype(np.float64) for n, x in state.items()}

  def conv_norm(x, conv, norm, stride=1):
    w = state[f'{conv}.weight']
    side = w.shape[-1]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    y = np.einsum('chwij,ocij->ohw', windows[:, ::stride, ::stride], w)
    gamma, beta, mean, var = (
      state[f'{norm}.{s}'][:, None, None]
      for s in ('weight', 'bias', 'running_mean', 'running_var')
    )
    return (y - mean) / np.sqrt(var + 1e-5) * gamma + beta

  x = np.maximum(conv_norm(image, 'conv1', 'bn1', 2), 0)
  x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
  x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
  outputs = []
  for stage in range(1, 5):
    for block in range(a.blocks[stage - 1]):
      name = f'layer{stage}.{block}'
      stride = 2 if stage > 1 and block == 0 else 1
      convs = 2 if a.block == 'basic' else 3
      # torchvision puts the stride on the first 3x3 convolution.
      strides = [stride, 1] if a.block == 'basic' else [1, stride, 1]
      y = x
      for i in range(1, convs + 1):
        y = conv_norm(y, f'{name}.conv{i}', f'{name}.bn{i}', strides[i - 1])
        y = np.maximum(y, 0) if i < convs else y
      if f'{name}.downsample.0.weight' in state:
        x = conv_norm(x, f'{name}.downsample.0', f'{name}.downsample.1', stride)
      x = np.maximum(x + y, 0)
    outputs.append(x)
  return outputs


@pytest.mark.parametrize('arch', TINY)
@pytest.mark.parametrize('size', [(64, 64), (57, 43)])
def test_folded_teacher_equals_the_unfolded_network(tmp_path, rng, arch, size, make_state_dict):
  state = make_state_dict(arch, rng)
  source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'
  save_file(state, source)
  stages = conversion.convert(source, arch, out)
  assert stages == [1, 2, 3, 4]
  loaded_arch, params = weights.load(out)
  assert loaded_arch == arch
  image = rng.normal(size=(*size, 3)).astype(np.float32)
  outputs = Teacher(arch).apply({'params': params}, image[None])
  for ours, expected in zip(
    outputs, slow_teacher(state, arch, image.transpose(2, 0, 1)), strict=True
  ):
    expected = expected.transpose(1, 2, 0)
    assert ours[0].shape == expected.shape
    assert np.linalg.norm(ours[0] - expected) / np.linalg.norm(expected) < 1e-5


def test_stage_4_may_be_missing(tmp_path, rng, make_state_dict):
  save_file(make_state_dict('tiny_basic', rng, stages=3), tmp_path / 'source.safetensors')
  out = tmp_path / 'out.safetensors'
  assert conversion.convert(tmp_path / 'source.safetensors', 'tiny_basic', out) == [1, 2, 3]
  _, params = weights.load(out)
  assert len(Teacher('tiny_basic').apply({'params': params}, np.zeros((1, 32, 32, 3)))) == 3
  metadata = weights.read_metadata(out)
  assert metadata['arch'] == 'tiny_basic'
  assert metadata['stages'] == [1, 2, 3]
  assert metadata['source_sha256'] == weights.sha256(tmp_path / 'source.safetensors')


def test_equal_inputs_give_equal_bytes(tmp_path, rng, make_state_dict):
  save_file(make_state_dict('tiny_basic', rng), tmp_path / 'source.safetensors')
  outs = [tmp_path / f'{i}.safetensors' for i in range(3)]
  for out in outs:
    conversion.convert(tmp_path / 'source.safetensors', 'tiny_basic', out)
  assert len({out.read_bytes() for out in outs}) == 1


def test_a_state_dict_of_another_architecture_is_refused(tmp_path, rng, make_state_dict):
  source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'

  def message(state, arch):
    save_file(state, source)
    with pytest.raises(UserError, match=r'source\.safetensors') as error:
      conversion.convert(source, arch, out)
    assert not out.exists()
    return str(error.value)

  state = make_state_dict('tiny_basic', rng)
  assert 'layer1.0.conv3.weight is missing' in message(state, 'tiny_bottleneck')
  # A deeper network holds all names and shapes of a shallower one.
  deeper = state | {'layer2.1.conv1.weight': state['layer2.0.conv2.weight']}
  assert 'layer2.1.conv1.weight is one too many' in message(deeper, 'tiny_basic')
  deep_stem = state | {'conv1.0.weight': state['conv1.weight']}
  assert 'conv1.0.weight is one too many' in message(deep_stem, 'tiny_basic')
  wide = state | {'layer1.0.conv1.weight': state['layer1.0.conv1.weight'].repeat(2, axis=1)}
  assert 'conv1/conv/kernel has shape (3, 3, 8, 4) instead' in message(wide, 'tiny_basic')
  whole = {name: tensor.astype(np.int8) for name, tensor in state.items()}
  assert 'bn1.bias holds int8, bn1.running_mean holds int8' in message(whole, 'tiny_basic')
  negative = state | {'layer3.0.bn2.running_var': -state['layer3.0.bn2.running_var']}
  assert 'layer3.0.bn2.running_var holds' in message(negative, 'tiny_basic')
  infinite = state | {'layer3.0.bn2.weight': np.full(16, np.inf, np.float32)}
  assert 'has values that are not finite' in message(infinite, 'tiny_basic')


@pytest.mark.parametrize('prefix', ['module.', 'model.backbone.'])
def test_a_common_prefix_is_taken_off(tmp_path, rng, make_state_dict, prefix):
  state = make_state_dict('tiny_basic', rng)
  save_file({f'{prefix}{n}': x for n, x in state.items()}, tmp_path / 'source.safetensors')
  read = conversion.read_state_dict(tmp_path / 'source.safetensors')
  assert read.keys() == state.keys()


PREFIXES = [('module.encoder_q.', 'module.encoder_k.'), ('', 'ema.'), ('a_', 'b_')]


@pytest.mark.parametrize('prefixes', PREFIXES)
def test_of_several_networks_a_flag_chooses(tmp_path, rng, make_state_dict, prefixes):
  source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'
  states = {prefix: make_state_dict('tiny_basic', rng) for prefix in prefixes}
  save_file({f'{p}{n}': x for p, state in states.items() for n, x in state.items()}, source)
  flags = [f'--prefix={shlex.quote(p.removesuffix("."))}' for p in sorted(prefixes)]
  message = f'{source} holds 2 networks: choose one with {flags[0]} or {flags[1]}.'
  with pytest.raises(UserError) as error:
    conversion.convert(source, 'tiny_basic', out)
  assert str(error.value) == message
  assert not out.exists()
  for prefix, state in states.items():
    for spelled in {prefix, prefix.removesuffix('.')}:
      read = conversion.read_state_dict(source, spelled)
      np.testing.assert_array_equal(read['conv1.weight'], state['conv1.weight'])
      assert conversion.convert(source, 'tiny_basic', out, prefix=spelled) == [1, 2, 3, 4]
  with pytest.raises(UserError, match=f'no network for --prefix=other; it has {flags[0]} or'):
    conversion.read_state_dict(source, 'other')


def test_a_prefix_of_nothing(tmp_path):
  save_file({'a': np.zeros(3, np.float32)}, tmp_path / 'x.safetensors')
  with pytest.raises(UserError, match='it has none at all'):
    conversion.read_state_dict(tmp_path / 'x.safetensors', 'a')


def test_what_is_no_teacher_is_not_replaced(tmp_path, rng, make_state_dict):
  source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'
  save_file(make_state_dict('tiny_basic', rng), source)
  out.write_bytes(source.read_bytes())
  with pytest.raises(UserError, match=r'out\.safetensors is there already, and is no teacher'):
    conversion.convert(source, 'tiny_basic', out)
  assert out.read_bytes() == source.read_bytes()
  out.unlink()
  for dtype in ('float32', 'bfloat16'):
    conversion.convert(source, 'tiny_basic', out, dtype)
  assert weights.read_metadata(out)['dtype'] == 'bfloat16'


def test_half_precision_files(tmp_path, rng, make_state_dict):
  state = make_state_dict('tiny_basic', rng)
  source = tmp_path / 'source.safetensors'
  save_file(state, source)
  full, half = tmp_path / 'full.safetensors', tmp_path / 'half.safetensors'
  conversion.convert(source, 'tiny_basic', full)
  conversion.convert(source, 'tiny_basic', half, 'bfloat16')
  tensors = [weights.flatten_dict(weights.load(path)[1], sep='/') for path in (full, half)]
  for name, exact in tensors[0].items():
    rounded = tensors[1][name]
    assert rounded.dtype == np.float32
    # bfloat16 keeps 8 bits, and rounds to nearest.
    assert (np.abs(rounded - exact) <= np.abs(exact) * 2.0**-8).all()
    assert (rounded.view(np.uint32) & 0xFFFF == 0).all()
  payloads = [
    path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], 'little')
    for path in (full, half)
  ]
  assert payloads[0] == 2 * payloads[1]
  assert weights.read_metadata(half)['dtype'] == 'bfloat16'
  # A source in half precision is read as well.
  save_file({n: x.astype(np.float16) for n, x in state.items()}, source)
  conversion.convert(source, 'tiny_basic', full)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('gone.safetensors', None, 'no file'),
    ('x.safetensors', b'\x08\0\0\0\0\0\0\0{"a": 1}', 'not a readable safetensors'),
    ('x.safetensors', b'\xff' * 100, 'not a readable safetensors'),
    ('x.safetensors', b'', 'not a readable safetensors'),
    ('x.safetensors', _LYING_LENGTH, 'not a readable safetensors'),
    ('x.safetensors', _LYING_OFFSETS, 'not a readable safetensors'),
    ('x.npz', b'', r'must end in \.safetensors, \.pth or \.pt'),
  ],
)
def test_unreadable_sources_are_refused(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    conversion.convert(tmp_path / name, 'tiny_basic', tmp_path / 'out.safetensors')


@pytest.fixture
def no_torch(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)


@pytest.mark.parametrize('name', ['new.pth', 'checkpoint.pt'])
def test_a_pth_equals_safetensors_without_torch(tmp_path, rng, make_state_dict, no_torch, name):
  state = make_state_dict('tiny_basic', rng)
  saved = torch_files.tensors({n: np.asarray(x) for n, x in state.items()})
  saved['fc.weight'] = torch_files.parameter(np.ones((2, 3), np.float16), 'fc')
  saved = {'state_dict': saved, 'epoch': 90} if 'checkpoint' in name else saved
  torch_files.write(tmp_path / name, saved)
  read = conversion.read_state_dict(tmp_path / name)
  assert read.pop('fc.weight').dtype == np.float16
  assert read.keys() == state.keys()
  assert all(np.array_equal(read[n], state[n]) for n in read)
  outs = [tmp_path / f'{i}.safetensors' for i in range(2)]
  save_file(state, tmp_path / 'source.safetensors')
  for source, out in zip((tmp_path / name, tmp_path / 'source.safetensors'), outs, strict=True):
    conversion.convert(source, 'tiny_basic', out)
  tensors = [weights.flatten_dict(weights.load(out)[1]) for out in outs]
  assert all(np.array_equal(tensors[0][n], tensors[1][n]) for n in tensors[1])


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ([1, 2], 'is not a state dict of tensors'),
    (3, 'is not a state dict of tensors'),
    ({'conv1.weight': 'text'}, 'is not a state dict of tensors'),
    ({3: torch_files.tensor(np.ones(3))}, 'is not a state dict of tensors'),
    (torch_files.Call('posix.system', 'true'), r'holds more than tensors: it names posix\.sys'),
    (
      torch_files.Call('argparse.Namespace'),
      r'names argparse\.Namespace.*; save its state dict',
    ),
  ],
  ids=['list', 'number', 'text', 'numbered', 'call', 'object'],
)
def test_what_a_pth_holds_beside_tensors(tmp_path, no_torch, value, message):
  torch_files.write(tmp_path / 'source.pth', value)
  with pytest.raises(UserError, match=rf'source\.pth.*{message}'):
    conversion.read_state_dict(tmp_path / 'source.pth')


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'\x80\x02}.', b'\xff' * 99])
def test_what_is_no_archive(tmp_path, no_torch, content):
  (tmp_path / 'source.pth').write_bytes(content)
  with pytest.raises(UserError, match=r'source\.pth is broken or holds .*: File is not'):
    conversion.read_state_dict(tmp_path / 'source.pth')


def test_pth_equals_safetensors(tmp_path, rng, make_state_dict):
  torch = pytest.importorskip('torch', reason='reading .pth needs the extra [convert]')
  state = make_state_dict('tiny_basic', rng)
  save_file(state, tmp_path / 'source.safetensors')
  tensors = {n: torch.from_numpy(np.asarray(x)) for n, x in state.items()}
  # Old files hold parameters instead of tensors, and the format before torch 1.6.
  parameters = {
    n: torch.nn.Parameter(x, requires_grad=x.is_floating_point()) for n, x in tensors.items()
  }
  torch.save(tensors, tmp_path / 'new.pth')
  torch.save(parameters, tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
  torch.save({'state_dict': tensors, 'epoch': 90}, tmp_path / 'checkpoint.pth')
  expected = conversion.read_state_dict(tmp_path / 'source.safetensors')
  for name in ('new.pth', 'old.pt', 'checkpoint.pth'):
    read = conversion.read_state_dict(tmp_path / name)
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[n], expected[n]) for n in read)
  for dtype in (torch.float16, torch.bfloat16):
    halves = {n: x.to(dtype) if x.is_floating_point() else x for n, x in tensors.items()}
    torch.save(halves, tmp_path / 'half.pth')
    read = conversion.read_state_dict(tmp_path / 'half.pth')
    found = read['conv1.weight'].astype(np.float32)
    np.testing.assert_array_equal(found, halves['conv1.weight'].float())


def test_without_torch_an_old_pth_is_one_sentence(tmp_path, no_torch):
  (tmp_path / 'source.pth').write_bytes(torch_archive.LEGACY_MAGIC + b'rest')
  with pytest.raises(UserError, match=r'needs torch: pip install "memkd_jax\[convert\]"'):
    conversion.read_state_dict(tmp_path / 'source.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_a_hostile_or_damaged_pth_executes_nothing(tmp_path, rng, make_state_dict, zipped):
  torch = pytest.importorskip('torch', reason='reading .pth needs the extra [convert]')

  class Attack:
    def __reduce__(self):
      return (open, (str(tmp_path / 'owned'), 'w'))

  def save(value, name):
    torch.save(value, tmp_path / name, _use_new_zipfile_serialization=zipped)

  state = make_state_dict('tiny_basic', rng)
  save({n: torch.from_numpy(np.asarray(x)) for n, x in state.items()}, 'whole.pth')
  save({'conv1.weight': Attack()}, 'evil.pth')
  save([1, 2], 'list.pth')
  save({'conv1.weight': 'text'}, 'text.pth')
  content = (tmp_path / 'whole.pth').read_bytes()
  for size in (0, 1, 100, 500, len(content) // 2, len(content) - 1):
    (tmp_path / f'cut_{size}.pth').write_bytes(content[:size])
  names = [p.name for p in tmp_path.glob('*.pth') if p.name != 'whole.pth']
  assert len(names) == 9
  for name in names:
    with pytest.raises(UserError, match=name):
      conversion.read_state_dict(tmp_path / name)
  assert not (tmp_path / 'owned').exists()


def test_real_weights_are_the_same_from_both_files(tmp_path, shared):
  source = shared / 'weights' / 'resnet18_imagenet_stages123'
  tensors = []
  for suffix in ('.pth', '.safetensors'):
    out = tmp_path / f'{suffix[1:]}.safetensors'
    assert conversion.convert(source.with_suffix(suffix), 'resnet18', out) == [1, 2, 3]
    tensors.append(weights.flatten_dict(weights.load(out)[1]))
  assert tensors[0].keys() == tensors[1].keys()
  assert all(np.array_equal(tensors[0][n], tensors[1][n]) for n in tensors[0])
