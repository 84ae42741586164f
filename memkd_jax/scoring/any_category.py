"""Decisions of a joint model on an image whose category nobody names.

A normal image is normal of one category, and may look like nothing that another one knows. So
it is called anomalous where every category would call it so: its p-value is the highest of
theirs, and its threshold too. (The lowest would raise an alarm for nearly every normal image.)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from memkd_jax.scoring.calibration import Calibration, Threshold

ANY = 'any'  # in place of a category's name


@dataclasses.dataclass(frozen=True)
class AnyCategory(Calibration):
  """The calibrations of all categories as one.

  Attributes:
    scores: scores of the category with the fewest, which bound the rates that are supported.
    pixels: the highest of all, by their share.
    parts: the calibration of each category.
  """

  parts: tuple[Calibration, ...] = ()

  @classmethod
  def of(cls, parts: Sequence[Calibration | None]) -> 'AnyCategory | None':
    """Of all categories; None where one has no calibration."""
    known = tuple(part for part in parts if part is not None)
    if len(known) < len(parts) or not known:
      return None
    fewest = min(known, key=lambda part: len(part.scores))
    pixels = np.max([part.pixels for part in known], axis=0)
    return cls(fewest.scores, pixels, known)

  def p_values(self, scores: np.ndarray) -> np.ndarray:
    """The highest over the categories of the probability that a normal image scores so high."""
    return np.asarray(np.max([part.p_values(scores) for part in self.parts], axis=0))

  def threshold(self, rate: float) -> Threshold:
    """The highest threshold for a false-alarm rate, with what its category's images promise."""
    return max((part.threshold(rate) for part in self.parts), key=lambda found: found.value)

  def rate_above(self, value: float) -> tuple[float, tuple[float, float]]:
    """The share of normal images above a value in the category that has the most of them."""
    return max(part.rate_above(value) for part in self.parts)
