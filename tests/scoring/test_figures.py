import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.metrics import PixelScores
from memkd_jax.scoring.figures import (
  IMAGE_METRICS,
  METRICS,
  PIXEL_METRICS,
  compute_defined,
  compute_metrics,
  count_decisions,
)


@pytest.fixture
def pixels(rng):
  scores = PixelScores()
  mask = np.zeros((8, 8), bool)
  mask[:3, :3] = True
  scores.add(mask, rng.random((8, 8)) + mask)
  return scores


def test_both_classes_have_all_figures(pixels):
  labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.9])
  figures, notes = compute_defined('bolt', labels, scores, pixels, 0.9)
  expected = (*IMAGE_METRICS, *PIXEL_METRICS)  # those of all data sets
  assert tuple(figures) == tuple(name for name in expected if name != 'P-PRO1')
  assert [name for name in METRICS if name in expected] == list(expected)
  small = compute_metrics('bolt', labels, scores, pixels, 0.9, smallest=True)
  assert tuple(small) == expected and small.items() >= figures.items()
  assert figures == compute_metrics('bolt', labels, scores, pixels, 0.9)
  without = compute_metrics('bolt', labels, scores, pixels)
  assert without == {name: value for name, value in figures.items() if name != 'SegF1'}
  assert notes == []


@pytest.mark.parametrize(
  ('labels', 'missing'),
  [
    ([0, 0], 'no anomalous test images'),
    ([1, 1], 'no normal test images'),
    ([], 'no test images'),
  ],
)
def test_what_one_class_does_not_define_is_left_out_by_name(labels, missing, pixels):
  scores = np.arange(len(labels), dtype=float)
  figures, (note,) = compute_defined('bolt', np.array(labels, int), scores, None)
  assert figures == {}
  assert f'bolt has {missing}' in note
  given = ('bolt', np.array(labels, int), scores, pixels, 0.9, True)
  figures, (note,) = compute_defined(*given)
  assert tuple(figures) == PIXEL_METRICS
  assert all(metric in note for metric in (missing, *IMAGE_METRICS))


def test_a_score_that_is_not_finite_is_an_error_still():
  with pytest.raises(UserError, match='bolt cannot be scored'):
    compute_defined('bolt', np.array([0, 1]), np.array([0.1, np.nan]), None)


def test_decisions_are_counted_as_by_hand(rng):
  labels, scores = rng.integers(0, 2, 50), rng.integers(0, 5, 50).astype(float)
  counts = dict.fromkeys(('caught', 'missed', 'passed', 'false_alarms'), 0)
  for label, score in zip(labels, scores, strict=True):
    if label:
      counts['caught' if score > 2 else 'missed'] += 1
    else:
      counts['false_alarms' if score > 2 else 'passed'] += 1
  assert count_decisions(labels, scores, 2.0) == counts
