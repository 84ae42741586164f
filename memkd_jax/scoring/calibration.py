"""Thresholds for a false-alarm rate, from normal images that were not trained on."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from memkd_jax.errors import UserError

# Shares of normal pixels above a value, from all of them to one in 100,000.
_PIXEL_RATES = 10.0 ** -np.linspace(0, 5, 51)
_CONFIDENCE = 0.95
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Threshold:
  """An image is called anomalous where its score is higher.

  Attributes:
    value: of the image score.
    false_alarm_rate: that was asked for.
    expected: the rate to be expected, at most the one asked for.
    interval: that of the true rate with a confidence of 95%, (low, high): the few
      held-out images fix the threshold no better.
  """

  value: float
  false_alarm_rate: float
  expected: float
  interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What held-out normal images look like to a detector.

  Nothing is fitted: p-values are ranks among the held-out scores (conformal p-values),
  which hold for whatever distribution normal images have. For the same reason no
  rate below 1 / (n + 1) can be had.

  Attributes:
    scores: float64 [n], their image scores, ascending.
    pixels: float64 [51], the values that the shares 10^0, 10^-0.1, ..., 10^-5 of their
      map's pixels exceed.
  """

  scores: np.ndarray
  pixels: np.ndarray

  @classmethod
  def from_maps(cls, maps: np.ndarray, scores: np.ndarray) -> 'Calibration':
    """Takes the maps [n, S, S] and the image scores [n] of held-out normal images."""
    pixels = np.quantile(maps.astype(np.float64), 1 - _PIXEL_RATES)
    return cls(np.sort(scores.astype(np.float64)), pixels)

  @property
  def smallest_rate(self) -> float:
    """The lowest false-alarm rate that so many images support."""
    return 1 / (len(self.scores) + 1)

  def p_values(self, scores: np.ndarray) -> np.ndarray:
    """The probability that a normal image scores as high or higher.

    Args:
      scores: [N].

    Returns:
      (1 + number of held-out scores >= s) / (n + 1), float64 [N].
    """
    below = np.searchsorted(self.scores, np.asarray(scores, np.float64), side='left')
    return (1 + len(self.scores) - below) / (len(self.scores) + 1)

  def threshold(self, rate: float) -> Threshold:
    """The threshold for a false-alarm rate.

    A score exceeds it just where its p-value is at most `rate`.

    Args:
      rate: in (0, 1).

    Raises:
      UserError: it is not, or so few held-out images do not support it.
    """
    check_rate(rate)
    number = len(self.scores)
    above = math.floor(rate * (number + 1) + _ROUNDING)
    if not above:
      raise UserError(
        f'{number} held-out images support no false-alarm rate below '
        f'{self.smallest_rate:.2g}, and {rate:g} was asked for; hold out '
        f'{math.ceil(1 / rate - _ROUNDING) - 1} (--config.train.holdout), or ask for more.'
      )
    # The share of all normal images above the k-th highest of n is Beta(k, n + 1 - k).
    low, high = stats.beta.interval(_CONFIDENCE, above, number + 1 - above)
    return Threshold(
      float(self.scores[number - above]),
      rate,
      above / (number + 1),
      (float(low), float(high)),
    )

  def pixel_threshold(self, rate: float) -> float:
    """The value that the share `rate` of normal pixels exceeds, down to one in 100,000."""
    check_rate(rate, 'pixel-rate')
    return float(np.interp(math.log10(rate), np.log10(_PIXEL_RATES[::-1]), self.pixels[::-1]))

  def to_json(self) -> dict[str, list[float]]:
    """The same as JSON values."""
    return {name: array.tolist() for name, array in vars(self).items()}

  def default_rate(self) -> float:
    """0.01, or the lowest rate that is supported where that is higher."""
    return max(0.01, self.smallest_rate)


def check_rate(rate: float, flag: str = 'false-alarm-rate') -> None:
  """Raises UserError, which names the flag, where a rate is none."""
  if not 0 < rate < 1:
    raise UserError(f'--{flag}={rate:g}: give a number between 0 and 1.')


def parse_calibration(content: Any) -> Calibration:
  """Undoes `Calibration.to_json`; raises ValueError where `content` is something else."""
  if not isinstance(content, dict):
    raise ValueError('its calibration is no JSON object')
  arrays = []
  for name in ('scores', 'pixels'):
    values = content.get(name)
    numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    if not numbers or not values or not np.isfinite(values).all():
      raise ValueError(f'its {name} are not numbers')
    arrays.append(np.asarray(values, np.float64))
  scores, pixels = arrays
  if (np.diff(scores) < 0).any() or (np.diff(pixels) < 0).any():
    raise ValueError('its numbers are not in ascending order')
  if len(pixels) != len(_PIXEL_RATES):
    raise ValueError(f'it has {len(pixels)} pixel values instead of {len(_PIXEL_RATES)}')
  return Calibration(scores, pixels)
