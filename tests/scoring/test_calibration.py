import json
import re

import numpy as np
import pytest
from scipy import stats

from memkd_jax.errors import UserError
from memkd_jax.scoring.calibration import (
  Calibration,
  Threshold,
  choose_threshold,
  parse_calibration,
  why_undecided,
)


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
  with pytest.raises(
    UserError, match=r'39 held-out images .* 0\.01 was asked .* with 99 or more'
  ):
    calibration.threshold(0.01)
  for rate in (0, 1, -1, float('nan')):
    with pytest.raises(UserError, match='between 0 and 1'):
      calibration.threshold(rate)


def of_number(number):
  return Calibration(np.arange(float(number)), np.linspace(0, 1, 51))


@pytest.mark.parametrize(
  ('number', 'rate'), [(1, None), (8, None), (9, 0.1), (19, 0.05), (99, 0.01), (500, 0.01)]
)
def test_no_decision_above_ten_percent_unless_asked_for(number, rate):
  calibration = of_number(number)
  assert calibration.default_rate() == rate
  threshold = choose_threshold(calibration)
  assert (threshold and threshold.false_alarm_rate) == rate
  asked = choose_threshold(calibration, rate=0.5)
  assert asked == calibration.threshold(0.5)
  assert choose_threshold(calibration, 7.0) == Threshold.by_hand(7.0, calibration)
  assert choose_threshold(calibration, 7.0, 0.5) == asked
  assert choose_threshold(None) is None


@pytest.mark.parametrize('number', range(1, 9))
def test_the_rate_of_the_remedy_is_supported(number):
  calibration = of_number(number)
  sentence = why_undecided(calibration)
  assert sentence.startswith('1 held-out image supports' if number == 1 else f'{number} held')
  (rate,) = re.findall(r'--false-alarm-rate=([\d.]+)\)', sentence)
  assert choose_threshold(calibration, rate=float(rate)).value == number - 1
  with pytest.raises(UserError, match=f'no false-alarm rate below {rate}, and 0.001 was'):
    calibration.threshold(0.001)


def test_the_reasons():
  assert why_undecided(of_number(3)) == (
    '3 held-out images support no false-alarm rate of 10%: there are p-values but no '
    'decisions; calibrate with 9 or more images (memkd calibrate --workdir=DIR --good=FOLDER), '
    'ask for a rate (--false-alarm-rate=0.25), or set a threshold by hand (--threshold=VALUE).'
  )
  assert why_undecided(None) == (
    'No images were held out: there are neither p-values nor decisions; calibrate with 9 or '
    'more images (memkd calibrate --workdir=DIR --good=FOLDER), or set a threshold by hand '
    '(--threshold=VALUE).'
  )


@pytest.mark.parametrize('value', [-1.0, 0.0, 2.5, 6.0, 37.9, 38.0, 1e9])
def test_a_threshold_by_hand_is_judged_by_the_held_out_scores(value):
  calibration = of_number(39)
  above = sum(score > value for score in calibration.scores)
  threshold = Threshold.by_hand(value, calibration)
  exact = stats.binomtest(above, 39).proportion_ci(0.95, 'exact')
  assert (threshold.value, threshold.false_alarm_rate) == (value, None)
  assert threshold.expected == (1 + above) / 40
  np.testing.assert_allclose(threshold.interval, (exact.low, exact.high), atol=1e-12)
  assert Threshold.by_hand(value, None) == Threshold(value, None, None, None)


def test_a_threshold_by_hand_is_a_number():
  for value in (float('nan'), float('inf'), -float('inf')):
    with pytest.raises(UserError, match=r'--threshold=.*: give a finite number\.'):
      choose_threshold(None, value)


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
