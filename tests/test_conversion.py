"""The folded teacher against an unfolded numpy network with torchvision's layout."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from memkd_jax import conversion, weights
from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Teacher

TINY = ['tiny_basic', 'tiny_bottleneck']


def state_dict(arch, rng, stages=4):
  """Random weights and BatchNorm statistics under torchvision's names."""
  a = ARCHITECTURES[arch]
  state = {}

  def conv_norm(conv, norm, out, inputs, side):
    state[f'{conv}.weight'] = rng.normal(size=(out, inputs, side, side)) / np.sqrt(
      inputs * side**2
    )
    state[f'{norm}.weight'] = rng.uniform(0.5, 2, out)
    state[f'{norm}.bias'] = rng.uniform(-1, 1, out)
    state[f'{norm}.running_mean'] = rng.uniform(-1, 1, out)
    state[f'{norm}.running_var'] = rng.uniform(0.1, 4, out)

  conv_norm('conv1', 'bn1', a.planes, 3, 7)
  inputs = a.planes
  for stage in range(1, stages + 1):
    planes, out = a.planes * 2 ** (stage - 1), a.channels(stage)
    for block in range(a.blocks[stage - 1]):
      name = f'layer{stage}.{block}'
      if a.block == 'basic':
        sizes = [(planes, inputs, 3), (out, planes, 3)]
      else:
        width = planes * a.width_factor
        sizes = [(width, inputs, 1), (width, width, 3), (out, width, 1)]
      for i, (o, n, side) in enumerate(sizes, start=1):
        conv_norm(f'{name}.conv{i}', f'{name}.bn{i}', o, n, side)
      if inputs != out:
        conv_norm(f'{name}.downsample.0', f'{name}.downsample.1', out, inputs, 1)
      inputs = out
  state = {n: np.asarray(x, np.float32) for n, x in state.items()}
  return state | {'bn1.num_batches_tracked': np.array(7), 'fc.bias': np.zeros(9, np.float32)}


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
def test_folded_teacher_equals_the_unfolded_network(tmp_path, rng, arch, size):
  state = state_dict(arch, rng)
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


def test_stage_4_may_be_missing(tmp_path, rng):
  save_file(state_dict('tiny_basic', rng, stages=3), tmp_path / 'source.safetensors')
  out = tmp_path / 'out.safetensors'
  assert conversion.convert(tmp_path / 'source.safetensors', 'tiny_basic', out) == [1, 2, 3]
  _, params = weights.load(out)
  assert len(Teacher('tiny_basic').apply({'params': params}, np.zeros((1, 32, 32, 3)))) == 3
  metadata = weights.read_metadata(out)
  assert metadata['arch'] == 'tiny_basic'
  assert metadata['stages'] == [1, 2, 3]
  assert metadata['source_sha256'] == weights.sha256(tmp_path / 'source.safetensors')


def test_equal_inputs_give_equal_bytes(tmp_path, rng):
  save_file(state_dict('tiny_basic', rng), tmp_path / 'source.safetensors')
  outs = [tmp_path / f'{i}.safetensors' for i in range(3)]
  for out in outs:
    conversion.convert(tmp_path / 'source.safetensors', 'tiny_basic', out)
  assert len({out.read_bytes() for out in outs}) == 1


def test_a_state_dict_of_another_architecture_is_refused(tmp_path, rng):
  save_file(state_dict('tiny_basic', rng), tmp_path / 'source.safetensors')
  out = tmp_path / 'out.safetensors'
  with pytest.raises(UserError, match=r'source\.safetensors lacks layer1\.0\.conv3\.weight'):
    conversion.convert(tmp_path / 'source.safetensors', 'tiny_bottleneck', out)
  wide = state_dict('tiny_basic', rng)
  wide['layer1.0.conv1.weight'] = wide['layer1.0.conv1.weight'].repeat(2, axis=1)
  save_file(wide, tmp_path / 'wide.safetensors')
  with pytest.raises(UserError, match=r'conv1/conv/kernel has shape \(3, 3, 8, 4\) instead'):
    conversion.convert(tmp_path / 'wide.safetensors', 'tiny_basic', out)
  assert not out.exists()


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('gone.safetensors', None, 'no file'),
    ('x.safetensors', b'\x08\0\0\0\0\0\0\0{"a": 1}', 'not a readable safetensors'),
    ('x.safetensors', b'\xff' * 100, 'not a readable safetensors'),
    ('x.npz', b'', r'must end in \.safetensors, \.pth or \.pt'),
  ],
)
def test_unreadable_sources_are_refused(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    conversion.convert(tmp_path / name, 'tiny_basic', tmp_path / 'out.safetensors')


def test_pth_equals_safetensors_and_executes_nothing(tmp_path, rng):
  torch = pytest.importorskip('torch', reason='reading .pth needs the extra [convert]')
  state = state_dict('tiny_basic', rng)
  save_file(state, tmp_path / 'source.safetensors')
  torch.save(
    {n: torch.from_numpy(np.asarray(x)) for n, x in state.items()}, tmp_path / 'source.pth'
  )
  a, b = (
    conversion.fold(
      conversion.read_state_dict(tmp_path / f'source.{suffix}'),
      ARCHITECTURES['tiny_basic'],
      suffix,
    )
    for suffix in ('pth', 'safetensors')
  )
  assert a.keys() == b.keys()
  assert all(np.array_equal(a[n], b[n]) for n in a)

  class Attack:
    def __reduce__(self):
      return (open, (str(tmp_path / 'owned'), 'w'))

  torch.save({'conv1.weight': Attack()}, tmp_path / 'evil.pth')
  (tmp_path / 'cut.pth').write_bytes((tmp_path / 'source.pth').read_bytes()[:500])
  torch.save([1, 2], tmp_path / 'list.pth')
  for name in ('evil.pth', 'cut.pth', 'list.pth'):
    with pytest.raises(UserError, match=name):
      conversion.read_state_dict(tmp_path / name)
  assert not (tmp_path / 'owned').exists()


def test_real_weights_are_the_same_from_both_files(tmp_path, shared):
  pytest.importorskip('torch', reason='reading .pth needs the extra [convert]')
  source = shared / 'weights' / 'resnet18_imagenet_stages123'
  tensors = []
  for suffix in ('.pth', '.safetensors'):
    out = tmp_path / f'{suffix[1:]}.safetensors'
    assert conversion.convert(source.with_suffix(suffix), 'resnet18', out) == [1, 2, 3]
    tensors.append(weights.flatten_dict(weights.load(out)[1]))
  assert tensors[0].keys() == tensors[1].keys()
  assert all(np.array_equal(tensors[0][n], tensors[1][n]) for n in tensors[0])
