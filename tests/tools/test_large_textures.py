"""Large images with small defects: the layout, the sizes, and what is painted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data import folder

TOOL = Path(__file__).parents[2] / 'tools' / 'large_textures.py'


def run(out, *flags):
  command = [sys.executable, TOOL, f'--out={out}', '--train=2', '--test=1', *flags]
  return subprocess.run(command, capture_output=True, text=True)


def test_they_are_a_data_set(tmp_path):
  out = tmp_path / 'large'
  flags = ('--textures=grass', '--width=640', '--height=560', '--diameter=6', '--defects=2')
  result = run(out, *flags)
  assert result.returncode == 0, result.stderr
  train, test = (folder.list_samples(out, 'grass', part) for part in ('train', 'test'))
  assert [sample.defect for sample in train] == ['good'] * 2
  assert [sample.defect for sample in test] == ['good', 'spot']
  assert not np.array_equal(*(np.asarray(Image.open(sample.image)) for sample in train))
  image, mask = (np.asarray(Image.open(path)) for path in (test[1].image, test[1].mask))
  assert image.shape == mask.shape == (560, 640)
  assert 2 * 20 <= (mask > 0).sum() <= 2 * 36  # spots six pixels wide
  low, high = (np.unique(image[mask > 0])[i] for i in (0, -1))
  assert set(np.unique(image[mask > 0])) == {low, high} and high - low > 100

  again = run(out, *flags)
  assert (again.returncode, again.stdout) == (1, '')
  assert again.stderr == (
    f'large_textures: {out} exists already; name another folder with --out.\n'
  )


def test_wrong_textures_are_named(tmp_path):
  result = run(tmp_path / 'x', '--textures=sand')
  assert (
    result.stderr == 'large_textures: --textures=sand: give some of brick, grass, gravel.\n'
  )
  assert not (tmp_path / 'x').exists()
