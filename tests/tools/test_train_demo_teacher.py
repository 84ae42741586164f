"""The tool as its user starts it, at tiny settings, and the data that it draws."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.errors import UserError
from memkd_jax.teachers import weights

pytestmark = pytest.mark.newest

pytest.importorskip('sklearn', reason='two photographs are of scikit-learn')

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'train_demo_teacher.py'


@pytest.fixture
def demo_photographs(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOL.parent))
  import demo_photographs

  return demo_photographs


@pytest.fixture
def tool(monkeypatch):
  monkeypatch.syspath_prepend(str(TOOL.parent))
  import train_demo_teacher

  return train_demo_teacher


def run(*args):
  return subprocess.run(
    [sys.executable, TOOL, *args],
    env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    capture_output=True,
    text=True,
  )


SMALL = ['--arch=tiny_basic', '--steps=2', '--apart=2', '--together=2', '--side=32']


def test_it_writes_a_teacher_that_says_how_it_was_made(tmp_path):
  file = tmp_path / 'teacher.safetensors'
  result = run(*SMALL, f'--out={file}')
  assert result.returncode == 0, result.stderr
  assert 'step 2/2: contrast ' in result.stdout
  arch, _ = weights.load(file, 'tiny_basic')
  metadata = weights.read_metadata(file)
  assert (arch, metadata['stages']) == ('tiny_basic', [1, 2, 3])
  assert metadata['command'].endswith(' '.join([*SMALL, '--seed=0']))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_teacher(tmp_path):
  """A minute."""
  files = [tmp_path / name for name in ('a.safetensors', 'b.safetensors', 'c.safetensors')]
  for file, seed in zip(files, (0, 0, 1), strict=True):
    assert run(*SMALL, f'--out={file}', f'--seed={seed}').returncode == 0
  assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_errors_are_one_sentence(tmp_path):
  result = run(f'--out={tmp_path}/x.safetensors', '--apart=99')
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
    'train_demo_teacher: --apart=99: there are 21 photographs.'
  )
  assert list(tmp_path.iterdir()) == []


def test_what_the_demo_tests_on_is_never_read(demo_photographs):
  photographs = demo_photographs.load()
  assert len(photographs) == 21
  import skimage.data

  for name in demo_textures.CATEGORIES:
    texture = getattr(skimage.data, name)()
    kept = photographs[name]
    assert len(kept) == 341
    np.testing.assert_array_equal(kept[..., 0], texture[:341])


def test_views_stay_within_their_photographs(demo_photographs):
  """Every pixel tells its photograph; a view that left it would raise IndexError."""
  generator = np.random.default_rng(0)
  sizes = [(172, 448), (191, 384), (300, 451)]
  photographs = [np.full((*s, 3), 50 * (i + 1), np.uint8) for i, s in enumerate(sizes)]
  for _ in range(20):
    views, plain = demo_photographs.draw_pairs(photographs, 4, 3, 64, generator)
    for pairs in views, plain:
      assert pairs.shape == (2, 12, 64, 64, 3) and pairs.dtype == np.float32
    assert all(np.ptp(place) < 1e-2 for place in plain.transpose(1, 0, 2, 3, 4))
    np.testing.assert_allclose(plain[0], plain[1], rtol=1e-5)
    assert np.abs(views - plain).mean() > 5


def test_two_views_show_the_same_place(demo_photographs):
  """In an image whose value is the row, both views have nearly the same mean."""
  rows = np.broadcast_to(np.arange(250, dtype=np.uint8)[:, None, None], (250, 400, 3))
  _, plain = demo_photographs.draw_pairs([rows], 32, 1, 16, np.random.default_rng(0))
  means = plain.mean((2, 3, 4))
  assert np.abs(means[0] - means[1]).max() <= 2 * 1.5 * 0.12 * 16 * np.sqrt(2)
  assert np.ptp(means[0]) > 50


def test_a_missing_package_is_named(demo_photographs, monkeypatch):
  monkeypatch.setattr(demo_photographs, '_BUNDLED', (('no_such_package', 'data', ()),))
  with pytest.raises(UserError, match=r'no_such_package are needed: pip install'):
    demo_photographs.load()
  monkeypatch.setattr(demo_photographs, '_BUNDLED', (('skimage', 'data', ('gone.png',)),))
  with pytest.raises(UserError, match=r'skimage bundles no gone\.png'):
    demo_photographs.load()


def test_contrast_against_a_slow_version(tool, rng):
  x = rng.normal(size=(8, 5)).astype(np.float32)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  losses = []
  for i in range(8):
    weight = {j: np.exp(x[i] @ x[j] / 0.3) for j in range(8) if j != i}
    losses.append(-np.log(weight[(i + 4) % 8] / sum(weight.values())))
  assert float(tool.contrast(jnp.asarray(x), 0.3)) == pytest.approx(np.mean(losses), rel=1e-5)
