"""Binned metrics keep their promise: the exact value lies within the stated error."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkd_jax.metrics import BinnedPixelScores, evaluate_pixels

METRICS = ('auroc', 'average_precision', 'aupro', 'f1_max')


def binned(masks, maps, bins, fpr_limit=0.3):
  return evaluate_pixels(masks, maps, fpr_limit, bins)


def assert_bounds_hold(masks, maps, bins, fpr_limit=0.3):
  exact, estimate = (
    evaluate_pixels(masks, maps, fpr_limit),
    binned(masks, maps, bins, fpr_limit),
  )
  for name in METRICS:
    error = abs(getattr(exact, name) - getattr(estimate, name))
    assert error <= getattr(estimate, f'{name}_error') + 1e-12, name
  assert exact.f1_max >= estimate.f1_max - 1e-12
  return exact, estimate


@settings(max_examples=200, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.sampled_from([1e-3, 1.0, 1e3]),
  spread=st.sampled_from([1e-4, 0.05, 2.0]),
  limit=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_the_bounds_hold(seed, scale, spread, limit):
  """A small spread around one value puts many scores into few bins."""
  rng = np.random.default_rng(seed)
  masks = rng.random((2, 8, 9)) < rng.choice([0.05, 0.5])
  if not masks.any() or masks.all():
    return
  maps = scale * (1 + spread * (rng.normal(size=masks.shape) + masks))
  assert_bounds_hold(masks, maps, 2**10, limit)


@pytest.mark.parametrize(('bins', 'error'), [(2**16, 0.01), (2**20, 0.001)])
def test_the_bounds_are_tight_enough_to_be_of_use(rng, bins, error):
  masks = np.zeros((6, 64, 64), bool)
  masks[:4, 10:20, 10:30] = True
  maps = rng.gamma(4.0, size=masks.shape).astype(np.float32) + 3 * masks
  _, estimate = assert_bounds_hold(masks, maps, bins)
  assert max(getattr(estimate, f'{name}_error') for name in METRICS) < error
  # The threshold flags what it says, in the scores themselves.
  flagged = maps >= estimate.threshold
  f1 = 2 * (flagged & masks).sum() / (flagged.sum() + masks.sum())
  assert f1 == pytest.approx(estimate.f1_max, abs=1e-12)


def test_with_one_score_a_bin_it_is_exact(rng):
  masks = rng.integers(0, 2, (3, 8, 8))
  maps = rng.integers(-20, 20, masks.shape)
  exact, estimate = assert_bounds_hold(masks, maps, 2**20)
  for name in METRICS:
    assert getattr(estimate, name) == pytest.approx(getattr(exact, name), abs=1e-12)
  np.testing.assert_array_equal(maps >= estimate.threshold, maps >= exact.threshold)


def test_both_zeros_are_one_score():
  maps = np.array([[0.0, -0.0, 0.0, -0.0]], np.float32)
  assert binned([[[0, 1, 1, 0]]], [maps], 2**16).auroc == 0.5


def test_memory_does_not_grow(rng):
  pixels = BinnedPixelScores(2**10)
  mask = np.zeros((256, 256), np.uint8)
  mask[:20, :20] = 1
  maps = rng.random((4, 256, 256), np.float32)
  pixels.add(mask, maps[0])

  def peak(images):
    tracemalloc.start()
    for i in range(images):
      pixels.add(mask, maps[i % 4])
    pixels.evaluate()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size

  assert peak(60) < 1.1 * peak(4)


@pytest.mark.parametrize('bins', [0, 1000, 2**9, 2**27, 65536.5])
def test_bad_bins_are_named(bins):
  with pytest.raises(ValueError, match='bins must be a power of two'):
    BinnedPixelScores(bins)


def test_undefined_metrics_are_errors():
  with pytest.raises(ValueError, match='maps is empty'):
    BinnedPixelScores().evaluate()
  for value, message in ((0, 'nothing is anomalous'), (1, 'nothing is normal')):
    with pytest.raises(ValueError, match=message):
      binned(np.full((1, 2, 2), value), np.ones((1, 2, 2)), 2**10)
