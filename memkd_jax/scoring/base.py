"""What a detector is, whatever computes its maps: images in, scores and decisions out."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from memkd_jax.data import inputs
from memkd_jax.data.images import Size
from memkd_jax.data.inputs import Images
from memkd_jax.errors import UserError
from memkd_jax.scoring.calibration import (
  Calibration,
  Threshold,
  check_rate,
  check_value,
  why_undecided,
)


@dataclasses.dataclass(frozen=True)
class Result:
  """What a detector says of N images.

  Attributes:
    maps: float32 [N, H, W], anomaly maps at the model's size; raw, or in spreads from what
      is usual of normal images where `anomaly_map.normalize` says so.
    scores: float32 [N], how abnormal each image is, as a rule its map's highest value.
    p_values: float64 [N], the probability that a normal image scores as high or
      higher; None where there are no held-out images to tell.
    decisions: bool [N], True for anomalous; None where there is no threshold.
  """

  maps: np.ndarray
  scores: np.ndarray
  p_values: np.ndarray | None
  decisions: np.ndarray | None


class BaseDetector(abc.ABC):
  """Scores images with one trained model.

  Attributes:
    category: name of what it was trained on.
    method: name of the method, 'MemKD' for example.
    image_size: (height, width) of its maps in pixels.
    batch_size: number of images that are scored at once.
    bits: how many of 16 bits per channel its images use, see `data.bit_depth`.
    calibration: what its held-out images look like; None where there are none.
    threshold: by which it decides; None where it does not.
    undecided: why it does not decide, and the remedies; None where it does.
    notes: sentences that must stand beside its results.
    device: what computes, 'cpu' for example.
    begins_with: what the first call does before, as the end of a sentence.
  """

  category: str
  method: str
  image_size: Size
  batch_size: int
  bits: int
  notes: list[str]
  device: str
  begins_with = ''

  def decide_by(self, calibration: Calibration | None, threshold: Threshold | None) -> None:
    """Sets calibration, threshold and undecided."""
    self.calibration = calibration
    self.threshold = threshold
    self.undecided = None if threshold else why_undecided(calibration)

  def __call__(self, images: Images) -> Result:
    """Scores images.

    Args:
      images: one image, or several of any sizes in a list; see `data.inputs.resized` for
        what is an image, and which arrays are one image or several. What is not
        [H, W, 3] is resized as the training images were.

    Returns:
      Maps, scores, and decisions; of one image as well those of N = 1 images.

    Raises:
      UserError: something is no image, or it is not clear how many images an array holds.
    """
    resized = list(inputs.resized(images, self.image_size, self.bits))
    maps = np.empty((len(resized), *self.image_size), np.float32)
    scores = np.empty(len(resized), np.float32)
    for begin in range(0, len(resized), self.batch_size):
      batch = np.stack(resized[begin : begin + self.batch_size])
      rows = slice(begin, begin + len(batch))
      maps[rows], scores[rows] = self._score_batch(batch)
    return self._decide(maps, scores)

  @abc.abstractmethod
  def compile(self) -> None:
    """Prepares the programs for all sizes of a batch, so that no later call waits."""

  def pixel_threshold(self, rate: float | None = None) -> float | None:
    """The value above which a pixel of a map is taken for anomalous.

    Args:
      rate: the share of normal pixels that exceed it. If None the false-alarm rate of images,
        and with a threshold by hand that threshold itself.

    Returns:
      The value; None where there is no threshold.

    Raises:
      UserError: the rate is none, or there are no held-out images to count pixels of.
    """
    if self.threshold is None:
      return None
    rate = self.threshold.false_alarm_rate if rate is None else rate
    if rate is None:
      return self.threshold.value
    check_rate(rate, 'pixel-rate')
    if self.calibration is None:
      raise UserError(
        f'--pixel-rate={rate:g} is counted on held-out images, and {self.category} has none; '
        'leave it out, or calibrate (memkd calibrate --workdir=DIR --good=FOLDER).'
      )
    return self.calibration.pixel_threshold(rate)

  @abc.abstractmethod
  def _score_batch(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps [B, H, W] and scores [B] of uint8 [B, H, W, 3], B at most `batch_size`."""

  def _decide(self, maps: np.ndarray, scores: np.ndarray) -> Result:
    p_values = None if self.calibration is None else self.calibration.p_values(scores)
    decisions = None if self.threshold is None else scores > self.threshold.value
    return Result(maps, scores, p_values, decisions)


def check_asked(
  models: Sequence[tuple[str, Calibration | None]],
  false_alarm_rate: float | None,
  threshold: float | None,
) -> None:
  """Checks what somebody asks models to decide by, None where he does not.

  Args:
    models: (name, calibration) of each.
    false_alarm_rate: share of normal images above the threshold.
    threshold: of the image score, by hand.

  Raises:
    UserError: both are given, one of them is none, or there are no held-out images.
  """
  if threshold is not None:
    check_value(threshold)
    if false_alarm_rate is not None:
      raise UserError(
        '--threshold and --false-alarm-rate exclude each other, since a rate sets a threshold; '
        'give one of them.'
      )
  if false_alarm_rate is not None:
    check_rate(false_alarm_rate)
    for name, calibration in models:
      if calibration is None:
        raise UserError(
          f'{name} has no held-out images to set a threshold for '
          f'--false-alarm-rate={false_alarm_rate:g} with. {why_undecided(None)}'
        )
