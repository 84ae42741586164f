"""Painted bumps: the layout, and defects that are in the cloud and hardly in the photograph."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from memkd_jax.data import clouds, folder_3d
from memkd_jax.data.benchmarks import mvtec_3d

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def painted_bumps(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOLS))
  import painted_bumps

  return painted_bumps


def test_they_are_a_data_set(tmp_path):
  command = [sys.executable, TOOLS / 'painted_bumps.py', f'--out={tmp_path / "bumps"}']
  command += ['--textures=grass', '--train=2', '--test=1']
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  root = tmp_path / 'bumps'
  assert folder_3d.list_categories(root) == ['grass']
  inputs = ('rgb', 'depth')
  train, test = (
    mvtec_3d.list_samples(root, 'grass', part, inputs) for part in ('train', 'test')
  )
  assert len(train) == 2
  assert [sample.defect for sample in test] == ['bump', 'dent', 'good']
  assert all((sample.mask is None) == (sample.defect == 'good') for sample in test)
  assert tifffile.imread(test[0].inputs['xyz']).shape == (128, 128, 3)
  again = subprocess.run(command, capture_output=True, text=True)
  assert again.returncode == 1
  assert again.stderr == (
    f'painted_bumps: {root} exists already; name another folder with --out.\n'
  )


def test_wrong_textures_are_named(tmp_path):
  command = [sys.executable, TOOLS / 'painted_bumps.py', f'--out={tmp_path / "x"}']
  result = subprocess.run([*command, '--textures=sand'], capture_output=True, text=True)
  assert result.stderr == 'painted_bumps: --textures=sand: give some of brick, grass, gravel.\n'
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_a_bump_is_in_the_cloud_alone(painted_bumps, sign):
  texture = np.random.default_rng(1).integers(40, 216, (140, 150), np.uint8)
  image, cloud, mask = painted_bumps.paint(texture, sign, np.random.default_rng(2))
  good, flat, none = painted_bumps.paint(texture, 0, np.random.default_rng(2))
  assert not none.any() and 200 < mask.sum() < 1600
  assert np.abs(image.astype(int) - good).max() <= 4  # of 216
  both = clouds.has_reading(cloud) & clouds.has_reading(flat)
  change = np.where(both, flat[..., 2] - cloud[..., 2], 0)  # towards the camera
  assert (sign * change).max() == pytest.approx(3e-4, rel=0.05)
  assert np.abs(change[~mask]).max() < 4e-5
  # Where it is darker, the surface is steep.
  assert (image.astype(int) - good)[~mask].min() >= -2
