"""The demo's weakest rival, against a slow version, and on the demo's own crops."""

from pathlib import Path

import numpy as np
import pytest

from memkd_jax.data.benchmarks import demo_textures


@pytest.fixture
def z_score(monkeypatch):
  monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'benchmarks'))
  import z_score

  return z_score


@pytest.mark.parametrize('window', [1, 3, 4])
def test_scores_against_a_slow_version(z_score, rng, window):
  normal = rng.integers(0, 256, (3, 7, 9), dtype=np.uint8)
  images = rng.integers(0, 256, (2, 7, 9), dtype=np.uint8)

  def means(image):
    return [
      image[i : i + window, j : j + window].mean()
      for i in range(7 - window + 1)
      for j in range(9 - window + 1)
    ]

  of_normal = np.concatenate([means(image) for image in normal])
  expected = [
    max(abs(mean - of_normal.mean()) / of_normal.std() for mean in means(image))
    for image in images
  ]
  np.testing.assert_allclose(z_score.image_scores(normal, images, window), expected)


def test_the_demos_defects_need_a_model(z_score, tmp_path):
  demo_textures.prepare(tmp_path / 'demo')
  for window in z_score.WINDOWS:
    found = [
      z_score.category_auroc(tmp_path / 'demo' / c, window)
      for c in ('brick', 'grass', 'gravel')
    ]
    assert np.mean(found) <= 0.7
