"""The tool as a user starts it; what it calls has tests of its own."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.numpy import save_file

from memkd_jax.teachers import weights

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'convert_torchvision.py'


def run(*args, **environment):
  return subprocess.run(
    [sys.executable, TOOL, '--arch=resnet18', *args],
    env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
    capture_output=True,
    text=True,
  )


def test_errors_are_one_sentence(tmp_path):
  result = run(f'--source={tmp_path}/gone.pth', f'--out={tmp_path}/out.safetensors')
  assert result.returncode == 1
  assert result.stderr.splitlines() == [
    f'weights: There is no file {tmp_path}/gone.pth; pass a torchvision state dict as --source.'
  ]


def test_without_a_source_it_downloads(tmp_path):
  # Nothing listens there, so that nothing leaves the machine.
  url = 'http://127.0.0.1:1'
  result = run(f'--out={tmp_path}/out.safetensors', MEMKD_WEIGHTS_URL=url)
  assert result.returncode == 1
  assert result.stderr.startswith(
    f'weights: {url}/resnet18.tv_in1k/resolve/main/model.safetensors could not be downloaded'
  )
  assert len(result.stderr.splitlines()) == 1


def test_it_converts(tmp_path, rng, make_state_dict):
  source, out = tmp_path / 'source.safetensors', tmp_path / 'out.safetensors'
  save_file(make_state_dict('resnet18', rng), source)
  result = run(f'--source={source}', f'--out={out}', '--dtype=bfloat16')
  assert result.stdout == f'{out}: resnet18, stages [1, 2, 3, 4], bfloat16\n'
  assert result.returncode == 0
  assert weights.load(out)[0] == 'resnet18'
  result = run(f'--source={source}', f'--out={out}', '--prefix=encoder_q')
  assert result.stderr == (
    f"weights: {source} has no network for --prefix=encoder_q; it has --prefix=''.\n"
  )
  result = run(f'--source={source}', f'--out={source}')
  assert 'would replace its own source' in result.stderr
