"""Mean and spread of many pixels, an image at a time."""

import math

import numpy as np


class Spread:
  """Of the values that it was given, in float64, without the cancellation of large squares.

  >>> spread = Spread()
  >>> spread.add(np.array([1.0, 2.0]))
  >>> spread.add(np.array([6.0]))
  >>> spread.mean, round(spread.deviation, 3)
  (3.0, 2.16)
  """

  def __init__(self) -> None:
    self.number, self.mean, self._squares = 0, 0.0, 0.0

  def add(self, values: np.ndarray) -> None:
    """Adds values, an array of any shape."""
    if not values.size:
      return
    values = values.astype(np.float64)
    number = self.number + values.size
    step = float(values.mean()) - self.mean
    self._squares += float(values.var()) * values.size
    self._squares += step**2 * self.number * values.size / number
    self.mean += step * values.size / number
    self.number = number

  @property
  def deviation(self) -> float:
    """The standard deviation, of these values themselves."""
    return math.sqrt(self._squares / self.number)

  @property
  def three_sigma(self) -> float:
    """Mean and three deviations: by what the baseline of MVTec AD 2 decides pixels.

    Infinite where there are no values.
    """
    if not self.number:
      return math.inf
    return self.mean + 3 * self.deviation
