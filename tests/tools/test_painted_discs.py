"""Painted parts: the layout, and masks where an image differs from a good one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memkd_jax.data import folder

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def painted_discs(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOLS))
  import painted_discs

  return painted_discs


def run(out):
  command = [sys.executable, TOOLS / 'painted_discs.py', f'--out={out}']
  return subprocess.run([*command, '--train=2', '--test=1'], capture_output=True, text=True)


def test_they_are_a_category(tmp_path, painted_discs):
  result = run(tmp_path)
  assert result.returncode == 0, result.stderr
  train, test = (folder.list_samples(tmp_path, 'disc', part) for part in ('train', 'test'))
  assert len(train) == 2
  assert [sample.defect for sample in test] == [
    'chip',
    'good',
    'good',
    *painted_discs.DEFECTS[1:],
  ]
  assert all((sample.mask is None) == (sample.defect == 'good') for sample in test)
  again = run(tmp_path)
  assert (again.returncode, again.stderr) == (
    1,
    f'painted_discs: {tmp_path}/disc exists already; name another folder with --out.\n',
  )


@pytest.mark.parametrize('defect', ['chip', 'missing', 'scratch', 'stain'])
def test_a_mask_is_where_the_part_differs(painted_discs, defect):
  for seed in range(3):
    image, mask = painted_discs.paint(defect, np.random.default_rng(seed))
    good, none = painted_discs.paint('good', np.random.default_rng(seed))
    assert not none.any() and image.shape == mask.shape == (256, 256)
    if mask.sum() < 30:  # which is not written
      continue
    difference = np.abs(image.astype(float) - good)
    # Of noise alone 1 in 1000 pixels differ by more than 14; edges are seen on both sides.
    assert np.median(difference[mask]) > 15
    assert (difference[~mask] > 25).sum() < 0.2 * mask.sum()
