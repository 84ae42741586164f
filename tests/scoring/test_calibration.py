import json

import numpy as np
import pytest
from scipy import stats

from memkd_jax.errors import UserError
from memkd_jax.scoring.calibration import Calibration, parse_calibration


@pytest.fixture
def calibration(rng):
  maps = rng.normal(size=(39, 8, 8))
  return Calibration.from_maps(maps, maps.max(axis=(1, 2)))


def test_p_values_count_held_out_scores(calibration, rng):
  scores = np.concatenate([rng.normal(2, 1, 20), calibration.scores[[0, 7, -1]]])
  expected = [(1 + sum(held >= s for held in calibration.scores)) / 40 for s in scores]
  np.testing.assert_array_equal(calibration.p_values(scores), expected)


@pytest.mark.parametrize('rate', [0.025, 0.03, 0.05, 0.1, 0.3, 0.5, 0.975])
def test_threshold_decides_as_p_values_do(calibration, rate):
  threshold = calibration.threshold(rate)
  scores = np.concatenate([calibration.scores, np.linspace(-2, 5, 200)])
  np.testing.assert_array_equal(
    scores > threshold.value, calibration.p_values(scores) <= rate + 1e-9
  )
  assert rate - 1 / 40 < threshold.expected <= rate + 1e-9


def test_false_alarms_are_as_many_as_promised(rng):
  """The expected rate, and its 95% interval, over many calibrations."""
  rates, inside = [], []
  for _ in range(2000):
    calibration = Calibration(np.sort(rng.normal(size=39)), np.zeros(51))
    threshold = calibration.threshold(0.05)
    true_rate = stats.norm.sf(threshold.value)
    rates.append(true_rate)
    inside.append(threshold.interval[0] <= true_rate <= threshold.interval[1])
  assert np.mean(rates) == pytest.approx(0.05, abs=0.003)
  assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_unsupported_rate_is_refused(calibration):
  assert calibration.smallest_rate == 1 / 40
  assert calibration.default_rate() == 1 / 40
  with pytest.raises(UserError, match=r'39 held-out images .* 0\.01 was asked .* hold out 99'):
    calibration.threshold(0.01)
  for rate in (0, 1, -1, float('nan')):
    with pytest.raises(UserError, match='between 0 and 1'):
      calibration.threshold(rate)


def test_pixel_threshold_is_exceeded_by_the_share_of_pixels(rng):
  maps = rng.normal(size=(20, 64, 64))
  calibration = Calibration.from_maps(maps, maps.max(axis=(1, 2)))
  for rate in (0.5, 0.05, 0.01, 0.001):
    assert np.mean(maps > calibration.pixel_threshold(rate)) == pytest.approx(rate, rel=0.05)
  assert calibration.pixel_threshold(1e-9) <= maps.max()


def test_round_trip(calibration):
  found = parse_calibration(json.loads(json.dumps(calibration.to_json())))
  np.testing.assert_array_equal(found.scores, calibration.scores)
  np.testing.assert_array_equal(found.pixels, calibration.pixels)


@pytest.mark.parametrize(
  'change',
  [
    {'scores': []},
    {'scores': [2, 1]},
    {'scores': ['1']},
    {'scores': None},
    {'scores': [float('inf')]},
    {'pixels': [1.0]},
    {'pixels': [True] * 51},
  ],
)
def test_what_is_none_is_refused(calibration, change):
  """Of a model.json; how its user hears of it is tested with the workdir."""
  with pytest.raises(ValueError):
    parse_calibration(calibration.to_json() | change)
  with pytest.raises(ValueError):
    parse_calibration([])
