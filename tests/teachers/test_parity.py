import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from memkd_jax.errors import UserError
from memkd_jax.teachers import conversion, parity, weights

pytest.importorskip('torch', reason='the comparison with torch needs the extra [convert]')


@pytest.fixture
def source(tmp_path, rng, make_state_dict):
  path = tmp_path / 'source.safetensors'
  save_file(make_state_dict('tiny_bottleneck', rng), path)
  return path


def test_a_float32_file_agrees_and_a_wrong_one_is_refused(tmp_path, source):
  out = tmp_path / 'out.safetensors'
  conversion.convert(source, 'tiny_bottleneck', out)
  table = parity.compare(source, out).splitlines()
  assert len(table) == 1 + 2 * 4
  assert [line.split()[:3] for line in table[1:]] == [
    [str(stage), '4', kind] for kind in ('random', 'real') for stage in (1, 2, 3, 4)
  ]
  _, params = weights.load(out)
  params['stage2']['block0']['conv2']['conv']['bias'] += 0.01
  weights.save_teacher(out, 'tiny_bottleneck', params, {})
  with pytest.raises(UserError, match='differs from'):
    parity.compare(source, out)


def test_the_errors_of_a_bfloat16_file_are_shown(tmp_path, source):
  out = tmp_path / 'out.safetensors'
  conversion.convert(source, 'tiny_bottleneck', out, 'bfloat16')
  images = parity.random_images(64)
  for error in parity.stage_errors(source, out, images):
    assert 1e-4 < error.relative < 5e-2
    assert error.absolute > 1e-4
  parity.compare(source, out)


def test_real_images_of_a_folder(tmp_path, rng):
  for i in range(6):
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f'{i}.png')
  assert parity.real_images(32, tmp_path).shape == (4, 32, 32, 3)
  with pytest.raises(UserError, match=r'no image in .*--images'):
    parity.real_images(32, tmp_path / 'none')
