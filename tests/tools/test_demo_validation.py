"""What is chosen for the demo is chosen on pixels that the demo does not test on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data.benchmarks import demo_textures

TOOL = Path(__file__).parents[2] / 'tools' / 'demo_validation.py'


def run(out):
  return subprocess.run([sys.executable, TOOL, f'--out={out}'], capture_output=True, text=True)


def test_its_crops_are_of_the_upper_two_thirds(tmp_path):
  """Every normal crop is found there, on its side: the trained ones left of the tested ones."""
  out = tmp_path / 'validation'
  result = run(out)
  assert result.returncode == 0, result.stderr
  for category in demo_textures.CATEGORIES:
    texture = demo_textures.photograph(category)
    known = demo_textures.training_part(texture).T
    border = len(known) * 2 // 3
    windows = np.lib.stride_tricks.sliding_window_view(known, (128, 128))
    for part, number in ('train', 48), ('test', 16):
      files = sorted((out / category / part / 'good').iterdir())
      assert len(files) == number
      for file in files[:4]:
        crop = np.asarray(Image.open(file))
        found = [
          row
          for row, column in zip(*np.nonzero(windows[:, :, 0, 0] == crop[0, 0]), strict=True)
          if np.array_equal(windows[row, column], crop)
        ]
        assert len(found) == 1
        assert (found[0] + 128 <= border) if part == 'train' else (found[0] >= border)
  result = run(out)
  assert (result.returncode, result.stderr) == (
    1,
    f'demo_validation: {out} exists already; choose another --out.\n',
  )
