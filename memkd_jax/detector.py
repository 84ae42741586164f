"""A trained model as one callable: `memkd_jax.load(DIR, category='bottle')`."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import RANDOM_TEACHER, resolve
from memkd_jax.data.images import to_square
from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import System
from memkd_jax.methods.trained import final_state
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.calibration import Calibration, Threshold, check_rate, read_calibration
from memkd_jax.teachers import weights
from memkd_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Result:
  """What a detector says of N images.

  Attributes:
    maps: float32 [N, S, S], anomaly maps at the model's size S, raw.
    scores: float32 [N], the highest value of each map.
    p_values: float64 [N], the probability that a normal image scores as high or
      higher; None where no threshold was calibrated.
    decisions: bool [N], True for anomalous; None likewise.
  """

  maps: np.ndarray
  scores: np.ndarray
  p_values: np.ndarray | None
  decisions: np.ndarray | None


class Detector:
  """Scores images with one trained model, on one device.

  Attributes:
    category: that it was trained on.
    image_size: S, the side of its maps in pixels.
    batch_size: images that are scored at once.
    calibration: what its held-out images look like; None where there are none.
    threshold: by which it decides; None likewise.
    notes: sentences that must stand beside its results.
  """

  def __init__(
    self,
    system: System,
    variables: Any,
    category: str,
    calibration: Calibration | None,
    false_alarm_rate: float | None,
  ):
    """Takes what `load` found.

    Args:
      system: of the run.
      variables: of `System.folded_variables`.
      category: that was trained.
      calibration: where there is one.
      false_alarm_rate: see `load`.
    """
    self.system = system
    self.variables = variables
    self.category = category
    self.image_size: int = system.config.data.image_size
    self.batch_size: int = system.config.eval.batch_size
    self.notes = list(system.notes)
    self.calibration = calibration
    self.threshold: Threshold | None = None
    if calibration is not None:
      rate = calibration.default_rate() if false_alarm_rate is None else false_alarm_rate
      self.threshold = calibration.threshold(rate)
    self._on_device = jax.device_put(variables, system.devices.local[0])

  def __call__(self, images: np.ndarray | Iterable[np.ndarray]) -> Result:
    """Scores images.

    Args:
      images: uint8 [N, H, W, 3] RGB, or a list of uint8 arrays [H, W, 3] or [H, W], each
        of any size. What is not [S, S, 3] is resized as the training images were.

    Returns:
      Maps, scores, and decisions.

    Raises:
      UserError: an array is no uint8 image.
    """
    squares = [to_square(image, self.image_size) for image in images]
    size = self.image_size
    maps = np.empty((len(squares), size, size), np.float32)
    scores = np.empty(len(squares), np.float32)
    for begin in range(0, len(squares), self.batch_size):
      batch = np.stack(squares[begin : begin + self.batch_size])
      rows = slice(begin, begin + len(batch))
      maps[rows], scores[rows] = self._score_batch(batch)
    return self._decide(maps, scores)

  def compile(self) -> None:
    """Compiles the programs for all sizes of a batch, so that no later call waits."""
    size = 1
    while size < 2 * self.batch_size:
      number = min(size, self.batch_size)
      self._score_batch(np.zeros((number, self.image_size, self.image_size, 3), np.uint8))
      size *= 2

  def _score_batch(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pads to a power of two, so that few programs are compiled."""
    number = len(batch)
    padded = min(1 << (number - 1).bit_length(), self.batch_size)
    padding = ((0, padded - number), (0, 0), (0, 0), (0, 0))
    images = np.pad(batch, padding)
    maps, scores = self.system.score_alone(self._on_device, images)
    return np.asarray(maps)[:number], np.asarray(scores)[:number]

  def _decide(self, maps: np.ndarray, scores: np.ndarray) -> Result:
    if self.calibration is None or self.threshold is None:
      return Result(maps, scores, None, None)
    p_values = self.calibration.p_values(scores)
    return Result(maps, scores, p_values, scores > self.threshold.value)


def load(
  workdir: Path | str,
  category: str | None = None,
  *,
  seed: int | None = None,
  false_alarm_rate: float | None = None,
  teacher_weights: Path | str | None = None,
) -> Detector:
  """Loads a model that `memkd_jax.main` trained.

  Args:
    workdir: the run's folder.
    category: that was trained; may be left out where there is one alone.
    seed: of the run; the first of its seeds where it is left out.
    false_alarm_rate: the share of normal images that may be called anomalous; 0.01, or the
      lowest that the held-out images support, where it is left out.
    teacher_weights: where the teacher's weights lie now; where they lay at the
      training where it is left out.

  Returns:
    The detector; it decides only if the run had --config.train.holdout.

  Raises:
    UserError: there is no such model, it is damaged, or the rate cannot be supported.
  """
  folder = Workdir(workdir)
  config = _config(folder, teacher_weights)
  seed = config.seeds[0] if seed is None else seed
  category = _choose_category(folder, category, seed)
  return _load(folder, config, [category], seed, false_alarm_rate)[0]


def load_all(
  workdir: Path | str,
  *,
  seed: int | None = None,
  false_alarm_rate: float | None = None,
  teacher_weights: Path | str | None = None,
) -> list[Detector]:
  """Loads all finished categories of a run; they share the teacher and the programs.

  Args, and errors, are those of `load`.
  """
  folder = Workdir(workdir)
  config = _config(folder, teacher_weights)
  seed = config.seeds[0] if seed is None else seed
  categories = folder.finished(seed) or [_choose_category(folder, None, seed)]
  return _load(folder, config, categories, seed, false_alarm_rate)


def _config(folder: Workdir, teacher_weights: Path | str | None) -> ConfigDict:
  """The resolved config of a run, its teacher compared with that of the training."""
  config = folder.read_config()
  expected = config.model.teacher_sha256
  with config.unlocked():
    del config.model['teacher_sha256']
  if teacher_weights is not None:
    config.model.teacher_weights = str(teacher_weights)
  config = resolve(config)
  path = config.model.teacher_weights
  if path != RANDOM_TEACHER and expected and weights.sha256(path) != expected:
    raise UserError(
      f'{path} is not the teacher that {folder.root} was trained with; name that file with '
      '--teacher-weights.'
    )
  # The number of devices that trained does not matter to one that scores.
  config.parallel.axis = 'category'
  return config


def _load(
  folder: Workdir,
  config: ConfigDict,
  categories: Sequence[str],
  seed: int,
  false_alarm_rate: float | None,
) -> list[Detector]:
  if false_alarm_rate is not None:
    check_rate(false_alarm_rate)
  calibrations = [read_calibration(folder.category(category, seed)) for category in categories]
  if false_alarm_rate is not None and None in calibrations:
    lacking = folder.category(categories[calibrations.index(None)], seed)
    raise UserError(
      f'{lacking} has no threshold to set a false-alarm rate for; train with '
      '--config.train.holdout=0.1.'
    )
  system = System(config, Devices(jax.local_devices()[:1]))
  size = config.data.image_size
  like = np.zeros((config.train.exemplars, size, size, 3), np.uint8)
  detectors = []
  for category, calibration in zip(categories, calibrations, strict=True):
    state, _ = final_state(system, category, seed, like, folder.category(category, seed))
    variables = system.folded_variables(state)
    detectors.append(Detector(system, variables, category, calibration, false_alarm_rate))
  return detectors


def _choose_category(folder: Workdir, category: str | None, seed: int) -> str:
  finished = folder.finished(seed)
  if category is None and len(finished) == 1:
    return finished[0]
  if category in finished:
    return str(category)
  known = ', '.join(finished) or 'none'
  asked = 'name one with --category' if category is None else f'{category} is not among them'
  raise UserError(f'{folder.root} holds, with seed {seed}, these categories: {known}; {asked}.')
