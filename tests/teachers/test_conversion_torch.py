"""The four real architectures against a torch network with unfolded BatchNorm."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from memkd_jax.models.resnet import BACKBONES, Teacher
from memkd_jax.teachers import conversion, weights

torch = pytest.importorskip('torch', reason='parity with torch needs the extra [convert]')
nn = torch.nn

LAYERS = {
  'resnet18': ([2, 2, 2, 2], 1, 64),
  'resnet34': ([3, 4, 6, 3], 1, 64),
  'resnet50': ([3, 4, 6, 3], 4, 64),
  'wide_resnet50_2': ([3, 4, 6, 3], 4, 128),
}


class Block(nn.Module):
  """Written from the papers (ResNet with the stride on the 3x3, wide ResNet)."""

  def __init__(self, inputs, planes, stride, expansion, base_width):
    super().__init__()
    out, width = planes * expansion, planes * base_width // 64
    if expansion == 1:
      shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
    else:
      shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
    self.depth = len(shapes)
    for i, (n, m, side, step) in enumerate(shapes, start=1):
      setattr(self, f'conv{i}', nn.Conv2d(n, m, side, step, side // 2, bias=False))
      setattr(self, f'bn{i}', nn.BatchNorm2d(m))
    self.downsample = None
    if stride != 1 or inputs != out:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out)
      )

  def forward(self, x):
    y = x
    for i in range(1, self.depth + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = y.relu() if i < self.depth else y
    return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
  def __init__(self, arch):
    super().__init__()
    layers, expansion, base_width = LAYERS[arch]
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    self.pool = nn.MaxPool2d(3, 2, 1)
    inputs = 64
    for stage, number in enumerate(layers):
      planes, blocks = 64 * 2**stage, []
      for i in range(number):
        stride = 2 if stage > 0 and i == 0 else 1
        blocks.append(Block(inputs, planes, stride, expansion, base_width))
        inputs = planes * expansion
      setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(inputs, 1000)

  def forward(self, x):
    x = self.pool(self.bn1(self.conv1(x)).relu())
    outputs = []
    for stage in range(1, 5):
      x = getattr(self, f'layer{stage}')(x)
      outputs.append(x)
    return outputs


def random_network(arch):
  torch.manual_seed(0)
  network = ResNet(arch).eval()
  for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
      nn.init.uniform_(module.weight, 0.5, 2)
      nn.init.uniform_(module.bias, -1, 1)
      nn.init.uniform_(module.running_mean, -1, 1)
      nn.init.uniform_(module.running_var, 0.1, 4)
    elif isinstance(module, nn.Conv2d):
      nn.init.kaiming_normal_(module.weight, mode='fan_out')
  return network


@pytest.mark.slow
@pytest.mark.parametrize('arch', BACKBONES)
def test_every_stage_equals_torch(tmp_path, rng, arch):
  network = random_network(arch)
  state = network.state_dict()
  torch.save(state, tmp_path / 'new.pth')
  torch.save(state, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
  save_file({n: x.numpy() for n, x in state.items()}, tmp_path / 'source.safetensors')
  teachers = []
  for source in ('new.pth', 'old.pth', 'source.safetensors'):
    out = tmp_path / 'out.safetensors'
    assert conversion.convert(tmp_path / source, arch, out) == [1, 2, 3, 4]
    teachers.append(weights.load(out)[1])
  for other in teachers[1:]:
    jax.tree.map(np.testing.assert_array_equal, teachers[0], other)

  teacher = jax.jit(Teacher(arch).apply)
  for height, width in ((256, 256), (231, 197)):
    images = rng.standard_normal((2, height, width, 3), np.float32)
    with jax.default_matmul_precision('highest'):
      ours = teacher({'params': teachers[0]}, images)
    with torch.inference_mode():
      theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert len(ours) == 4
    for stage, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
      b = b.permute(0, 2, 3, 1).numpy()
      assert a.shape == b.shape
      error = np.linalg.norm(a - b) / np.linalg.norm(b)
      print(f'{arch} {height}x{width} stage {stage}: {error:.1e}')
      assert error < 1e-5
