"""AUPIMO against a fine numerical integral of its definition."""

import numpy as np
import pytest

from memkd_jax.metrics import aupimo


def slow_aupimo(masks, maps, low, high, points=20_000):
  """The mean over log-spaced rates of the recall at each rate's threshold."""
  normal = [map_ for mask, map_ in zip(masks, maps, strict=True) if not mask.any()]
  candidates = np.unique(np.concatenate([m.ravel() for m in normal]))
  rate_of = [np.mean([(m >= t).mean() for m in normal]) for t in candidates] + [0.0]
  edges = np.linspace(np.log(low), np.log(high), points + 1)
  rates = np.exp((edges[1:] + edges[:-1]) / 2)
  scores = []
  for mask, map_ in zip(masks, maps, strict=True):
    if not mask.any():
      continue
    # A threshold of rate r flags what is above the highest candidate that exceeds r.
    recalls = [(map_[mask != 0] > t).mean() for t in candidates] + [1.0]
    total = 0.0
    for rate in rates:
      excess = [i for i, r in enumerate(rate_of[:-1]) if r > rate]
      total += recalls[excess[-1]] if excess else 1.0
    scores.append(total / points)
  return scores


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('bounds', [(0.02, 0.2), (0.3, 0.9)])
def test_agrees_with_its_definition(rng, tied, bounds):
  shapes = [(4, 5), (3, 4), (4, 5), (6, 3), (5, 5)]
  masks = [np.zeros(s, int) for s in shapes]
  for i in (1, 4):
    masks[i][1:3, 1:4] = 1
  maps = [rng.normal(size=s) + m for s, m in zip(shapes, masks, strict=True)]
  if tied:
    maps = [np.round(2 * m) for m in maps]
  mean, scores = aupimo(masks, maps, bounds)
  expected = slow_aupimo(masks, maps, *bounds, points=2000)
  np.testing.assert_allclose(scores, expected, atol=2e-3)
  assert mean == pytest.approx(np.mean(scores))


def test_bounds_of_the_value():
  masks = np.zeros((2, 4, 4), int)
  masks[1, 0] = 1
  assert aupimo(masks, masks.astype(float))[0] == 1
  assert aupimo(masks, 1.0 - masks)[0] == 0
  assert aupimo(masks, np.ones((2, 4, 4)))[0] == 0  # no threshold is below a rate of 1


def test_false_positives_in_anomalous_images_do_not_count(rng):
  masks = np.zeros((2, 8, 8), int)
  masks[1, :2] = 1
  maps = rng.random((2, 8, 8)) + masks
  worse = maps.copy()
  worse[1, 4:] = 10
  assert aupimo(masks, maps) == (pytest.approx(aupimo(masks, worse)[0]), pytest.approx([1.0]))


@pytest.mark.parametrize(
  ('masks', 'bounds', 'message'),
  [
    (np.ones((2, 2, 2)), (1e-5, 1e-4), 'no image is normal'),
    (np.zeros((2, 2, 2)), (1e-5, 1e-4), 'no image is anomalous'),
    (np.ones((2, 2, 3)), (1e-5, 1e-4), r'masks\[0\] is \(2, 3\)'),
    (np.ones((2, 2, 2)), (1e-4, 1e-5), 'fpr_bounds'),
  ],
)
def test_bad_input_is_named(masks, bounds, message):
  with pytest.raises(ValueError, match=message):
    aupimo(masks, np.ones((2, 2, 2)), bounds)
