"""A trained model as one callable: `memkd_jax.load(DIR, category='bottle')`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax import methods
from memkd_jax.config import DTYPES
from memkd_jax.data import bit_depth
from memkd_jax.data.tiling import Tiling, depth_range_of, framing_of
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.runtime import onednn
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.any_category import ANY, AnyCategory
from memkd_jax.scoring.base import BaseDetector, check_asked
from memkd_jax.scoring.calibration import choose_threshold
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.scoring.tile_params import params_of, positions_of
from memkd_jax.teachers import weights
from memkd_jax.teachers.extractor import RANDOM, FeatureExtractor
from memkd_jax.workdir import TrainedModel, Workdir, copy_of_models, read_model_folder


@dataclasses.dataclass(frozen=True)
class Program:
  """What the models of a run have in common: the teacher, and one compiled program.

  Attributes:
    pipeline: the computation, from images to maps and scores.
    teacher_params: the extractor's parameters, numpy arrays.
    notes: what whoever uses the results must know of the teacher; the method's own notes are
      for those who compare figures.
    device: the device that scores.
    run: compiled `(params, teacher_params, images, statistics) -> (maps, scores)`; compiled
      once for each number of images, whatever the number of models.
    on_device: the extractor's parameters on the device.
  """

  pipeline: Pipeline
  teacher_params: Any
  notes: tuple[str, ...]
  device: jax.Device
  run: Callable[..., tuple[jax.Array, jax.Array]]
  on_device: Any

  @classmethod
  def build(cls, trained: TrainedModel, teacher_weights: Path | str | None) -> 'Program':
    """Loads the teacher of a model, and nothing that only a training needs.

    Args:
      trained: any of the run's models.
      teacher_weights: where the teacher's weights lie now; where they lay at the
        training if None.

    Raises:
      UserError: they are missing, or not those of the training.
    """
    config = trained.config.copy_and_resolve_references()
    if teacher_weights is not None:
      config.model.teacher_weights = str(Path(teacher_weights).expanduser().absolute())
    source = config.model.teacher_weights
    if source != RANDOM:
      _check_teacher(Path(source), trained)
    extractor = FeatureExtractor(config.model.backbone, source, config.model.dtype)
    # The number of devices that trained does not matter to one that scores.
    config.parallel.axis = 'category'
    device = jax.local_devices()[0]
    method = methods.create(config, extractor, Devices([device]))
    pipeline = Pipeline(extractor, method, **config.anomaly_map.to_dict())
    return cls(
      pipeline,
      extractor.params,
      tuple(extractor.notes),
      device,
      jax.jit(pipeline.score),
      jax.device_put(extractor.params, device),
    )


class Detector(BaseDetector):
  """A `BaseDetector` with the model of a run, on one device.

  Attributes:
    trained: the trained model, without what only a further training needs.
    program: the teacher and the compiled program.
  """

  begins_with = '; compiling first'

  def __init__(
    self,
    trained: TrainedModel,
    program: Program,
    false_alarm_rate: float | None = None,
    threshold: float | None = None,
  ):
    """Takes what `load` found.

    Args:
      trained: the trained model, as it was read.
      program: the teacher and the compiled program.
      false_alarm_rate: see `load`.
      threshold: see `load`.
    """
    # What only a further training needs would be memory for nothing.
    self.trained = dataclasses.replace(trained, unfolding=None)
    self.program = program
    self.category = trained.name
    self.method = program.pipeline.method.name
    self.tiling = Tiling.of_config(trained.config.data)
    self.framing = framing_of(trained.config.data, trained.region)
    self.batch_size: int = trained.config.eval.batch_size
    self.bits = bit_depth.of_config(trained.config)
    self.notes = list(program.notes)
    device = program.device
    kind = '' if device.device_kind.lower() == device.platform else f' ({device.device_kind})'
    self.device = f'{device.platform}{kind}'
    by_hand = trained.threshold if threshold is None else threshold
    calibration = trained.calibration
    self.decide_by(calibration, choose_threshold(calibration, by_hand, false_alarm_rate))
    self._on_device, self._statistics = jax.device_put(
      (trained.params, trained.statistics), program.device
    )

  @property
  def _any_position(self) -> int:
    return positions_of(self._on_device)[0] if self.tiling.by_position else 0

  def compile(self) -> None:
    """Compiles the programs for all sizes of a batch, so that no later call waits."""
    size = 1
    while size < 2 * self.batch_size:
      number = min(size, self.batch_size)
      self.score_tiles(np.zeros((number, *self.tile_shape), np.uint8), self._any_position)
      size *= 2

  def score(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps and scores as a function to be traced, its parameters as numpy constants.

    Args:
      images: tiles of images, uint8 [B, *tile_shape].

    Returns:
      (maps [B, H, W], scores [B]).

    Raises:
      UserError: there is a model for each place of a grid, and this is of one alone.
    """
    program = self.program
    trained = self.trained
    if self.tiling.by_position:
      raise UserError(
        f'{self.category} has a model for each place of the grid (--config.data.tile_models='
        'position), and a file holds one alone; predict and serve from the run, or train with '
        '--config.data.tile_models=one.'
      )
    return program.pipeline.score(
      trained.params, program.teacher_params, images, trained.statistics
    )

  def score_tiles(self, batch: np.ndarray, position: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pads to a power of two, so that few programs are compiled."""
    number = len(batch)
    padded = min(1 << (number - 1).bit_length(), self.batch_size)
    padding = ((0, padded - number), (0, 0), (0, 0), (0, 0))
    program = self.program
    params = params_of(self._on_device, self.tiling, position)
    given = (params, program.on_device, np.pad(batch, padding), self._statistics)
    maps, scores = program.run(*given)
    return np.asarray(maps)[:number], np.asarray(scores)[:number]


def load(
  workdir: Path | str,
  category: str | None = None,
  *,
  seed: int | None = None,
  false_alarm_rate: float | None = None,
  threshold: float | None = None,
  teacher_weights: Path | str | None = None,
  dtype: str | None = None,
) -> Detector:
  """Loads a trained model.

  Args:
    workdir: a run's folder, or a folder that holds model.json and model.safetensors.
    category: name of what it was trained on; may be left out where there is one alone. With a
      joint model (`train.scope`), left out or 'any' stands for all of them: an image is
      anomalous where it would be so for each.
    seed: the seed that it was trained with; the first of the run's seeds if None.
    false_alarm_rate: the share of normal images that may be called anomalous; 0.01, or the
      lowest that the held-out images support, if None. Where they support none of 0.1, the
      detector decides only if it is asked for a rate.
    threshold: the threshold of the image score, in place of one that follows from a rate; if
      both are None, the one that was set with memkd calibrate --threshold, if any.
    teacher_weights: where the teacher's weights lie now; where they lay at the
      training if None.
    dtype: what it computes in, one of `config.DTYPES`; as at the training if None. Thresholds
      are those of the training in any case, whose scores differ a little.

  Returns:
    The detector; its `undecided` says why, where it does not decide.

  Raises:
    UserError: there is no such model or dtype, it is damaged, the rate cannot be supported, or
      the threshold is not finite or given together with a rate.
  """
  trained = read_any(workdir, category, seed) or read_named(workdir, category, seed)
  if dtype is not None:
    if dtype not in DTYPES:
      raise UserError(f'dtype={dtype!r}: give one of {", ".join(DTYPES)}, or None.')
    config = trained.config.copy_and_resolve_references()
    config.model.dtype = dtype
    trained = dataclasses.replace(trained, config=config)
  return _detectors([trained], false_alarm_rate, threshold, teacher_weights)[0]


def read_any(
  workdir: Path | str, category: str | None = None, seed: int | None = None
) -> TrainedModel | None:
  """Reads the joint model of a run as one of any category; args and errors as `load`.

  Returns:
    None where a category is named, or they have models of their own, or see images in ways of
    their own (a region of interest, a bit depth, the units of their maps).
  """
  root = copy_of_models(workdir)
  if category not in (None, ANY) or model.exists(root):
    return None
  folder = Workdir(root)
  chosen = _choose_seed(folder, seed)
  names = _names(folder, chosen)
  first = folder.read_model(names[0], chosen) if names else None
  if first is None or not _is_joint(first):
    return None
  return _of_any([first, *(folder.read_model(name, chosen) for name in names[1:])])


def _of_any(models: Sequence[TrainedModel]) -> TrainedModel | None:
  """All models of a run as one, see `read_any`."""
  first, *others = models
  if not others or ANY in [trained.name for trained in models] or not _is_joint(first):
    return None
  if not all(_sees_as(first, other) for other in models):
    return None
  calibration = AnyCategory.of([trained.calibration for trained in models])
  return dataclasses.replace(
    first, name=ANY, calibration=calibration, threshold=_highest_by_hand(models)
  )


def _highest_by_hand(models: Sequence[TrainedModel]) -> float | None:
  """The highest threshold; None where none was set by hand, or one model does not decide."""
  found = [choose_threshold(trained.calibration, trained.threshold) for trained in models]
  by_hand = any(trained.threshold is not None for trained in models)
  values = [threshold.value for threshold in found if threshold is not None]
  return max(values) if by_hand and len(values) == len(models) else None


def _is_joint(trained: TrainedModel) -> bool:
  return bool(trained.config.train.get('scope', 'category') == 'joint')


def _sees_as(first: TrainedModel, other: TrainedModel) -> bool:
  """Whether two models are one, under two names, and see images in the same way."""
  depths = {
    (bit_depth.of_config(trained.config), depth_range_of(trained.config.data))
    for trained in (first, other)
  }
  own = other.region is not None or other.statistics is not None
  return first.train_sha256 == other.train_sha256 and len(depths) == 1 and not own


def read_named(
  workdir: Path | str, category: str | None = None, seed: int | None = None
) -> TrainedModel:
  """Reads the model that `load` would load, without its teacher; args and errors as there."""
  root = copy_of_models(workdir)
  if model.exists(root):
    trained = read_model_folder(root)
    if category not in (None, trained.name) or seed not in (None, trained.seed):
      raise UserError(
        f'{root} holds {trained.name} with seed {trained.seed} alone; leave --category and '
        '--seed out.'
      )
    return trained
  folder = Workdir(root)
  seed = _choose_seed(folder, seed)
  return folder.read_model(_choose_category(folder, category, seed), seed)


def load_all(
  workdir: Path | str,
  *,
  seed: int | None = None,
  false_alarm_rate: float | None = None,
  threshold: float | None = None,
  teacher_weights: Path | str | None = None,
) -> list[Detector]:
  """Loads all models of a run; they share the teacher and the programs.

  Args, and errors, are those of `load`.
  """
  root = copy_of_models(workdir)
  if model.exists(root):
    models = [read_model_folder(root)]
  else:
    folder = Workdir(root)
    seed = _choose_seed(folder, seed)
    names = _names(folder, seed) or [_choose_category(folder, None, seed)]
    models = [folder.read_model(name, seed) for name in names]
    together = _of_any(models)
    models += [] if together is None else [together]
  return _detectors(models, false_alarm_rate, threshold, teacher_weights)


def _detectors(
  models: Sequence[TrainedModel],
  false_alarm_rate: float | None,
  threshold: float | None,
  teacher_weights: Path | str | None,
) -> list[Detector]:
  asked = [(trained.name, trained.calibration) for trained in models]
  check_asked(asked, false_alarm_rate, threshold)
  # As a rule one: an evaluation with other maps may have ended before it came to all models.
  programs: dict[str, Program] = {}
  onednn.ask_for_it(*(trained.config.model.dtype for trained in models))
  found = []
  shared: dict[str, Any] = {}  # what a joint model has learned, under whatever name
  for trained in models:
    maps = trained.config.anomaly_map.to_json(sort_keys=True)
    if maps not in programs:
      programs[maps] = Program.build(trained, teacher_weights)
    if _is_joint(trained):
      key = f'{trained.seed} {trained.train_sha256} {maps}'
      trained = dataclasses.replace(trained, params=shared.setdefault(key, trained.params))
    found.append(Detector(trained, programs[maps], false_alarm_rate, threshold))
  return found


def _check_teacher(path: Path, trained: TrainedModel) -> None:
  """Raises UserError unless the file is the teacher of a model, whatever else it may be."""
  digest = trained.teacher_sha256
  if digest == RANDOM:
    raise UserError(f'{trained.name} has a random teacher: leave --teacher-weights out.')
  if not path.is_file():
    problem = f'There is no teacher at {path}'
  elif weights.sha256(path) != digest:
    problem = f'{path} is not the teacher that {trained.name} was trained with'
  else:
    return
  raise UserError(
    f'{problem}; say where that file lies now with --teacher-weights=FILE (its sha256 begins '
    f'with {digest[:8]}).'
  )


def _choose_seed(folder: Workdir, seed: int | None) -> int:
  if seed is not None:
    return seed
  known = folder.models()
  if not known:
    folder.check_exists()
    raise UserError(
      f'{folder.root} holds no trained model yet; run the command that trains there to its end.'
    )
  seeds = folder.read_model(*known[0]).config.seeds
  return next((s for s in seeds if (known[0][0], s) in known), known[0][1])


def _names(folder: Workdir, seed: int) -> list[str]:
  return [name for name, other in folder.models() if other == seed]


def _choose_category(folder: Workdir, category: str | None, seed: int) -> str:
  known = _names(folder, seed)
  if category is None and len(known) == 1:
    return known[0]
  if category in known:
    return str(category)
  if not known:
    there = ', '.join(f'{name} with seed {other}' for name, other in folder.models())
    raise UserError(f'{folder.root} holds no model with seed {seed}; it holds {there}.')
  asked = 'name one with --category' if category is None else f'{category} is not among them'
  raise UserError(f'{folder.root} holds models of {", ".join(known)}; {asked}.')
