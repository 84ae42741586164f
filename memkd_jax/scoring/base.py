"""What a detector is, whatever computes its maps: images in, scores and decisions out."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from memkd_jax.data import inputs
from memkd_jax.data.framing import Framing, Size
from memkd_jax.data.inputs import Images
from memkd_jax.data.mosaic import Mosaic
from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError
from memkd_jax.scoring.calibration import (
  Calibration,
  Threshold,
  check_rate,
  check_value,
  pixel_threshold,
  why_undecided,
)

_MOST_PIXELS = 2**25  # of canvases in tiles that are scored at once


@dataclasses.dataclass(frozen=True)
class Result:
  """What a detector says of N images.

  Attributes:
    maps: float32 [N, H, W], anomaly maps at the size of the canvas (see `data.tiling`), which
      is the model's unless images are cut into tiles; of objects [N] where it is up to the
      image. Raw, or in spreads from what is usual of normal images where
      `anomaly_map.normalize` says so. What does not count (see `data.framing`) has a value
      that nothing of the image falls below, and 0 at most.
    scores: float32 [N], how abnormal each image is, as a rule its map's highest value; of
      tiles the highest, before they fade into each other.
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
    framing: how images lie on their canvases.
    tiling: how canvases become what the model sees.
    batch_size: number of tiles that are scored at once; an image is one unless it is cut.
    bits: how many of 16 bits per channel its images use, see `data.bit_depth`.
    calibration: what its held-out images look like; None where there are none.
    threshold: the threshold by which it decides; None where it does not.
    undecided: why it does not decide, and the remedies; None where it does.
    notes: sentences that must stand beside its results.
    device: what computes, 'cpu' for example.
    begins_with: what the first call does before, as the end of a sentence.
  """

  category: str
  method: str
  framing: Framing
  tiling: Tiling
  batch_size: int
  bits: int
  notes: list[str]
  device: str
  begins_with = ''

  @property
  def image_size(self) -> Size:
    """(height, width) of what the model sees, in pixels."""
    return self.tiling.size

  @property
  def tile_shape(self) -> tuple[int, int, int]:
    """Of what the model sees: (height, width, channels)."""
    return *self.tiling.size, self.framing.channels

  @property
  def images_at_once(self) -> int:
    """How many images to give to it at once: one that is cut fills batches, and memory.

    Where places have models of their own it has one tile for each.
    """
    if self.tiling.is_whole:
      return self.batch_size
    if not self.tiling.by_position:
      return 1
    height, width = self.tiling.canvas((1, 1))
    return max(1, min(self.batch_size, _MOST_PIXELS // (height * width)))

  def decide_by(self, calibration: Calibration | None, threshold: Threshold | None) -> None:
    """Sets calibration, threshold and undecided."""
    self.calibration = calibration
    self.threshold = threshold
    self.undecided = None if threshold else why_undecided(calibration)

  def __call__(self, images: Images) -> Result:
    """Scores images.

    Args:
      images: one image, or several of any sizes in a list; see `data.inputs.resized` for
        what is an image, and which arrays are one image or several. What has another size
        than the model's is resized, or cut, as the training images were.

    Returns:
      Maps, scores, and decisions; of one image as well those of N = 1 images.

    Raises:
      UserError: something is no image, or it is not clear how many images an array holds.
    """
    return self.score_canvases(list(inputs.resized(images, self.framing, self.bits)))

  def score_canvases(self, canvases: Sequence[np.ndarray] | np.ndarray) -> Result:
    """Scores images that lie on their canvases, uint8 [H, W, channels of the framing] each."""
    mosaic = Mosaic(self.tiling, canvases)
    for begin, tiles, position in mosaic.batches(self.batch_size):
      maps, scores = self.score_tiles(tiles, position)
      mosaic.add(begin, maps.astype(np.float32), scores.astype(np.float32))
    return self._decide(mosaic.maps, mosaic.scores)

  @abc.abstractmethod
  def compile(self) -> None:
    """Prepares the programs for all sizes of a batch, so that no later call waits."""

  def pixel_threshold(self, rate: float | None = None) -> float | None:
    """The value above which a pixel of a map is taken for anomalous.

    Args:
      rate: the share of normal pixels that exceed it. If None the false-alarm rate of images,
        but 0.001 at most; and with a threshold by hand that threshold itself.

    Returns:
      The value; None where there is no threshold.

    Raises:
      UserError: the rate is none, or there are no held-out images to count pixels of.
    """
    return pixel_threshold(self.calibration, self.threshold, rate)

  @abc.abstractmethod
  def score_tiles(self, batch: np.ndarray, position: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Looks at tiles of one place.

    Args:
      batch: tiles of images, uint8 [B, *tile_shape], B at most `batch_size`.
      position: the number of their place in the grid, where places have models of their own.

    Returns:
      (maps [B, H, W], scores [B]).
    """

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
    models: (name, calibration) of each model.
    false_alarm_rate: share of normal images above the threshold.
    threshold: value of the image score, chosen by hand.

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
