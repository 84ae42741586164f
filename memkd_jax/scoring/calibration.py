"""Thresholds: by hand, or for a false-alarm rate, from normal images not trained on."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special  # and not stats, which takes half a second to import

from memkd_jax.data.framing import seen_of
from memkd_jax.errors import UserError

# Shares of normal pixels above a value, from all of them to one in 100,000.
_PIXEL_RATES = 10.0 ** -np.linspace(0, 5, 51)
_CONFIDENCE = 0.95
_ROUNDING = 1e-9
# Nobody wants decisions at a higher one who has not asked for them.
HIGHEST_DEFAULT_RATE = 0.1
_MOST_PIXELS = 0.001  # about those of a Gaussian beyond three standard deviations
_FEWEST_IMAGES = 9  # that support it
_CALIBRATE = 'calibrate with {} or more images (memkd calibrate --workdir=DIR --good=FOLDER)'
_BY_HAND = 'set a threshold by hand (--threshold=VALUE)'


@dataclasses.dataclass(frozen=True)
class Threshold:
  """An image is called anomalous where its score is higher.

  Attributes:
    value: the image score above which an image is called anomalous.
    false_alarm_rate: the rate that was asked for; None where the value was set by hand.
    expected: the rate to be expected, at most the one asked for; None where no held-out
      images tell it, as of all that follows.
    interval: (low, high), the interval of the true rate with a confidence of 95%: the few
      held-out images fix the threshold no better.
  """

  value: float
  false_alarm_rate: float | None
  expected: float | None
  interval: tuple[float, float] | None

  @classmethod
  def by_hand(cls, value: float, calibration: 'Calibration | None') -> 'Threshold':
    """A threshold that somebody chose, and what held-out images say of it.

    Args:
      value: the image score above which an image is called anomalous.
      calibration: what held-out images of the model look like; None where it has none.

    Raises:
      UserError: the value is not finite.
    """
    check_value(value)
    if calibration is None:
      return cls(float(value), None, None, None)
    return cls(float(value), None, *calibration.rate_above(value))


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
  def from_maps(
    cls, maps: np.ndarray, scores: np.ndarray, canvases: np.ndarray | None = None
  ) -> 'Calibration':
    """Takes what a detector makes of held-out normal images.

    Args:
      maps: anomaly maps, floating [n, H, W], or objects [n].
      scores: image scores, floating [n].
      canvases: [n, H, W, channels], or objects [n]: what of them counts; all if None.
    """
    seen = [None] * len(maps) if canvases is None else map(seen_of, canvases)
    parts = [
      map_.ravel() if inside is None else map_[inside]
      for map_, inside in zip(maps, seen, strict=True)
    ]
    values = np.concatenate(parts).astype(np.float64)
    pixels = np.quantile(values, 1 - _PIXEL_RATES)
    return cls(np.sort(scores.astype(np.float64)), pixels)

  @property
  def smallest_rate(self) -> float:
    """The lowest false-alarm rate that so many images support."""
    return 1 / (len(self.scores) + 1)

  def p_values(self, scores: np.ndarray) -> np.ndarray:
    """The probability that a normal image scores as high or higher.

    Args:
      scores: image scores, floating [N].

    Returns:
      (1 + number of held-out scores >= s) / (n + 1), float64 [N].
    """
    below = np.searchsorted(self.scores, np.asarray(scores, np.float64), side='left')
    return (1 + len(self.scores) - below) / (len(self.scores) + 1)

  def rate_above(self, value: float) -> tuple[float, tuple[float, float]]:
    """How many normal images score higher than a value that these images did not choose.

    Args:
      value: the image score that is compared with.

    Returns:
      (the share to be expected, its Clopper-Pearson interval with a confidence of 95%).
    """
    number = len(self.scores)
    above = number - int(np.searchsorted(self.scores, value, side='right'))
    tail = (1 - _CONFIDENCE) / 2
    low = special.betaincinv(above, number - above + 1, tail) if above else 0.0
    high = special.betainccinv(above + 1, number - above, tail) if above < number else 1.0
    return (1 + above) / (number + 1), (float(low), float(high))

  def threshold(self, rate: float) -> Threshold:
    """The threshold for a false-alarm rate.

    A score exceeds it just where its p-value is at most `rate`.

    Args:
      rate: the false-alarm rate, in (0, 1).

    Raises:
      UserError: it is not, or so few held-out images do not support it.
    """
    check_rate(rate)
    number = len(self.scores)
    above = math.floor(rate * (number + 1) + _ROUNDING)
    if not above:
      needed = math.ceil(1 / rate - _ROUNDING) - 1
      raise UserError(
        f'{self.describe_size()} no false-alarm rate below '
        f'{_rounded_up(self.smallest_rate):g}, and {rate:g} was asked for; ask for that, or '
        f'{_CALIBRATE.format(needed)}.'
      )
    # The share of all normal images above the k-th highest of n is Beta(k, n + 1 - k).
    tails = np.array([1 - _CONFIDENCE, 1 + _CONFIDENCE]) / 2
    low, high = special.betaincinv(above, number + 1 - above, tails)
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

  def default_rate(self) -> float | None:
    """0.01, or the lowest rate that is supported where that is higher; None above 0.1."""
    rate = max(0.01, self.smallest_rate)
    return rate if rate <= HIGHEST_DEFAULT_RATE + _ROUNDING else None

  def describe_size(self) -> str:
    """The subject and the verb of a sentence on what so many images support."""
    number = len(self.scores)
    return '1 held-out image supports' if number == 1 else f'{number} held-out images support'


def pixel_threshold(
  calibration: Calibration | None, threshold: Threshold | None, rate: float | None = None
) -> float | None:
  """The value above which a pixel of a map is taken for anomalous.

  Args:
    calibration: what held-out images of the model look like; None where it has none.
    threshold: the model's threshold of image scores; None where there is none, and none of
      pixels.
    rate: the share of normal pixels that exceed it. If None `default_pixel_rate`, and with a
      threshold by hand that threshold itself.

  Raises:
    UserError: the rate is none, or there are no held-out images to count pixels of.
  """
  if threshold is None:
    return None
  rate = default_pixel_rate(threshold) if rate is None else rate
  if rate is None:
    return threshold.value
  check_rate(rate, 'pixel-rate')
  if calibration is None:
    raise UserError(
      f'--pixel-rate={rate:g} is counted on held-out images, and there are none; leave it out, '
      'or calibrate (memkd calibrate --workdir=DIR --good=FOLDER).'
    )
  return calibration.pixel_threshold(rate)


def default_pixel_rate(threshold: Threshold) -> float | None:
  """The share of normal pixels above the pixel threshold, where nobody asks for another.

  The false-alarm rate of images, but 0.001 at most: of an image that is called anomalous a
  tenth would be circled anywhere. None with a threshold by hand.
  """
  rate = threshold.false_alarm_rate
  return None if rate is None else min(rate, _MOST_PIXELS)


def choose_threshold(
  calibration: Calibration | None, by_hand: float | None = None, rate: float | None = None
) -> Threshold | None:
  """By what a model decides; None where it does not, for which see `why_undecided`.

  Args:
    calibration: what held-out images of the model look like; None where it has none.
    by_hand: a threshold that somebody set, None where nobody did.
    rate: the false-alarm rate that somebody asks for, None where nobody does; it counts
      before a threshold by hand, and needs a calibration.

  Raises:
    UserError: the rate is not supported, or a value is none.
  """
  if rate is not None and calibration is not None:
    return calibration.threshold(rate)
  if by_hand is not None:
    return Threshold.by_hand(by_hand, calibration)
  default = None if calibration is None else calibration.default_rate()
  return None if calibration is None or default is None else calibration.threshold(default)


def why_undecided(calibration: Calibration | None) -> str:
  """Why a model without a threshold does not decide, and the remedies, as one sentence.

  Args:
    calibration: the model's, None where it has none.
  """
  calibrate = _CALIBRATE.format(_FEWEST_IMAGES)
  if calibration is None:
    return (
      f'No images were held out: there are neither p-values nor decisions; {calibrate}, or '
      f'{_BY_HAND}.'
    )
  return (
    f'{calibration.describe_size()} no false-alarm rate of {HIGHEST_DEFAULT_RATE:.0%}: there '
    f'are p-values but no decisions; {calibrate}, ask for a rate '
    f'(--false-alarm-rate={_rounded_up(calibration.smallest_rate):g}), or {_BY_HAND}.'
  )


def _rounded_up(rate: float) -> float:
  """With two digits, and as high at least, so that what is printed is supported."""
  unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
  return math.ceil(rate / unit - _ROUNDING) * unit


def check_value(value: float) -> None:
  """Raises UserError, which names the flag, where a threshold by hand is none."""
  if not math.isfinite(value):
    raise UserError(f'--threshold={value:g}: give a finite number.')


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
