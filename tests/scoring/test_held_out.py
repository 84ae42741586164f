"""Held-out images, each normalised by the others, whichever model scored them."""

import numpy as np
import pytest

from memkd_jax.data.tiling import Tiling
from memkd_jax.scoring import held_out, normalization
from memkd_jax.scoring.held_out import Part


class Scorer:
  """A map is the images' first channel times what was learned; scores are its maxima."""

  tiling = Tiling((4, 4))

  def __init__(self):
    self.given = []

  def stage_maps(self, params, images):
    return {2: params * images[..., 0].astype(np.float32)}

  def __call__(self, params, images, statistics=None):
    self.given.append(statistics)
    maps = self.stage_maps(params, images)
    if statistics is not None:
      maps = normalization.normalize(maps, statistics)
    return maps[2], maps[2].max((1, 2)), {}


@pytest.fixture
def parts(rng):
  images = rng.integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
  return [
    Part(lambda: 1.0, images[:4]),
    Part(lambda: 3.0, images[4:5]),
    Part(lambda: 2.0, images[5:]),
  ]


def test_raw_scores(parts):
  scorer = Scorer()
  found = held_out.score(scorer, parts, 'none')
  expected = np.concatenate([scorer.stage_maps(p.params(), p.images)[2] for p in parts])
  np.testing.assert_array_equal(found.maps, expected)
  np.testing.assert_array_equal(found.scores, expected.max((1, 2)))
  assert found.statistics is None and scorer.given == [None] * 3


@pytest.mark.parametrize('kind', ['stage', 'position'])
def test_each_image_by_the_others_of_all_parts(parts, kind):
  scorer = Scorer()
  found = held_out.score(scorer, parts, kind)
  raw = np.concatenate([scorer.stage_maps(p.params(), p.images)[2] for p in parts])
  for i, map_ in enumerate(raw):
    usual = normalization.measure({2: np.delete(raw, i, 0)}, kind)['stage2']
    expected = (map_ - usual['mean'][0]) / usual['spread'][0]
    np.testing.assert_allclose(found.maps[i], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores[i], expected.max(), rtol=1e-4)
  whole = normalization.measure({2: raw}, kind)['stage2']
  for name, values in whole.items():
    np.testing.assert_array_equal(found.statistics['stage2'][name], values)
