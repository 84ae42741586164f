"""A trained model in a folder: model.safetensors and model.json, read and written."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.data import bit_depth
from memkd_jax.data.framing import ALPHA
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.scoring.calibration import Calibration, parse_calibration
from memkd_jax.scoring.normalization import Statistics

# Sections of model.safetensors beside what the method has learned; no method has parameters of
# these names. The first one is read by a further training alone.
UNFOLDING = 'unfolding'
_STATISTICS = 'map_statistics'
_REGION = 'region_of_interest'


Ranges = tuple[str, str | tuple[float, float]]  # see `read_ranges`


@dataclasses.dataclass(frozen=True)
class TrainedModel:
  """All that scoring needs but the teacher.

  Attributes:
    name: name of the task that it was trained for.
    seed: the seed that it was trained with.
    config: the run's config, as `methods.resolve` returns it.
    teacher_sha256: digest of the teacher's weights, or 'random'.
    params: what the method has learned, nested dicts of numpy arrays.
    train_images: the number of images that its method was given; with train.stop=plateau it
      has only watched some of them.
    train_sha256: digest of the training images.
    diagnosis: see `methods.base.Fitted`.
    calibration: what held-out normal images look like; None where none were held out.
    threshold: the threshold of the image score, set by hand; None where it follows from the
      calibration.
    unfolding: see `methods.base.Fitted`; it lies in model.safetensors below 'unfolding'.
    warm_start: the digest of the model that the training went on from (`tensors_sha256` in
      its model.json); None for one from scratch.
    statistics: mean and spread of the maps of normal images that it has not learned from, by
      which maps are normalised; None where they are not. They lie below 'map_statistics'.
    region: the region of interest, bool [h, w], see `data.framing`; None where `data.roi` names
      no file. It lies below 'region_of_interest', as uint8.
    fit_seconds: seconds that fitting took; None where it was stopped and resumed in between.
    fit_memory: the most bytes that the process held meanwhile beyond those that it held
      before; None where the system does not say, or several models were fitted at once.
  """

  name: str
  seed: int
  config: ConfigDict
  teacher_sha256: str
  params: dict[str, Any]
  train_images: int
  train_sha256: str
  diagnosis: dict[str, Any]
  calibration: Calibration | None
  threshold: float | None = None
  unfolding: dict[str, Any] | None = None
  warm_start: str | None = None
  statistics: Statistics | None = None
  region: np.ndarray | None = None
  fit_seconds: float | None = None
  fit_memory: float | None = None


def write_model(folder: Path, trained: TrainedModel, others: Iterable[Path] = ()) -> None:
  """Writes a trained model, complete or not at all; `others` as in `files.model.write`."""
  facts = {field.name: getattr(trained, field.name) for field in dataclasses.fields(trained)}
  params = dict(facts.pop('params'))
  for section, name in ((UNFOLDING, 'unfolding'), (_STATISTICS, 'statistics')):
    if found := facts.pop(name):
      params[section] = found
  if (region := facts.pop('region')) is not None:
    params[_REGION] = region.astype(np.uint8)
  facts['config'] = json.loads(trained.config.to_json())
  facts['calibration'] = _calibration_json(trained.calibration)
  model.write(folder, params, facts, others)


def read_calibration(folder: Path) -> Calibration | None:
  """The calibration of a model; None where there is no model, or it has none.

  Raises:
    UserError: the model is damaged.
  """
  if not model.exists(folder):
    return None
  with damage_explained(folder):
    return _calibration(model.read_facts(folder))


def read_ranges(folder: Path) -> Ranges | None:
  """How a model's files are read as 8 bits; None where there is no model.

  Returns:
    The `data.bit_depth` and the `data.depth_range` that it was trained with.

  Raises:
    UserError: the model is damaged.
  """
  if not model.exists(folder):
    return None
  with damage_explained(folder):
    config = _with_tuples(model.read_facts(folder)['config'])
  return str(bit_depth.of_config(config)), config.data.get('depth_range', 'auto')


def read_warm_start(folder: Path) -> str | None:
  """The `warm_start` of a model; None where there is no model, or it is from scratch.

  Raises:
    UserError: the model is damaged.
  """
  if not model.exists(folder):
    return None
  with damage_explained(folder):
    return _warm_start(model.read_facts(folder))


def write_calibration(folder: Path, calibration: Calibration | None) -> None:
  """Gives a model another calibration, and leaves the rest but a threshold by hand as it is.

  Args:
    folder: the folder that holds the model's two files.
    calibration: the new one, None for none.

  Raises:
    UserError: there is no model, or it is damaged.
  """
  _change(folder, {'calibration': _calibration_json(calibration), 'threshold': None})


def write_threshold(folder: Path, threshold: float) -> None:
  """Gives a model a threshold by hand; its calibration stays, for p-values.

  Args:
    folder: the folder that holds the model's two files.
    threshold: the threshold of the image score, finite.

  Raises:
    UserError: there is no model, or it is damaged.
  """
  _change(folder, {'threshold': threshold})


def _change(folder: Path, facts: dict[str, Any]) -> None:
  with damage_explained(folder):
    known = model.read_facts(folder)
  model.write_facts(folder, known | facts)


def read_model_folder(folder: Path) -> TrainedModel:
  """Reads a trained model from the folder that holds its two files.

  Raises:
    UserError: there is none, or it is damaged.
  """
  with damage_explained(folder):
    facts, content = model.read_facts(folder), model.read_bytes(folder)
  return parse_model(folder, facts, content)


def parse_model(folder: Path, facts: dict[str, Any], content: bytes) -> TrainedModel:
  """The model that the contents of the two files of a folder make; errors name the folder."""
  with damage_explained(folder):
    try:
      params = model.parse_params(content, facts)
      names = (UNFOLDING, _STATISTICS, _REGION)
      unfolding, statistics, region = (params.pop(name, None) for name in names)
      config = _with_tuples(facts['config'])
      if config.anomaly_map.get('normalize', 'none') != 'none' and not statistics:
        raise ValueError('the statistics of its maps are missing')
      return TrainedModel(
        name=str(facts['name']),
        seed=int(facts['seed']),
        config=config,
        teacher_sha256=str(facts['teacher_sha256']),
        params=params,
        train_images=int(facts['train_images']),
        train_sha256=str(facts['train_sha256']),
        diagnosis=dict(facts['diagnosis']),
        calibration=_calibration(facts),
        threshold=_number(facts, 'threshold'),
        unfolding=unfolding,
        warm_start=_warm_start(facts),
        statistics=statistics,
        region=_region(region, config),
        fit_seconds=_number(facts, 'fit_seconds'),
        fit_memory=_number(facts, 'fit_memory'),
      )
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(f'it lacks {error}') from error


@contextmanager
def damage_explained(folder: Path) -> Iterator[None]:
  """Turns what damaged files raise into a sentence that says what to do."""
  try:
    yield
  except (ValueError, RecursionError, FileNotFoundError) as error:
    if not model.exists(folder):
      raise UserError(
        f'There is no trained model in {folder}; train without --mode=evaluate.'
      ) from error
    raise UserError(
      f'The trained model in {folder} is damaged ({error}); remove {folder / model.FACTS} and '
      'run the command that trained it again.'
    ) from error


def _calibration(facts: dict[str, Any]) -> Calibration | None:
  content = facts.get('calibration')
  return None if content is None else parse_calibration(content)


def _number(facts: dict[str, Any], name: str) -> float | None:
  value = facts.get(name)
  if value is None:
    return None
  if type(value) not in (int, float) or not math.isfinite(value):
    raise ValueError(f'its {name} is no number')
  return float(value)


def _region(value: Any, config: ConfigDict) -> np.ndarray | None:
  if (value is None) != (config.data.get('roi', '') in ('', ALPHA)):
    raise ValueError('its region of interest is missing')
  if value is None:
    return None
  if not isinstance(value, np.ndarray) or value.ndim != 2 or not value.any():
    raise ValueError('its region of interest is no picture')
  return value != 0


def _warm_start(facts: dict[str, Any]) -> str | None:
  value = facts.get('warm_start')
  return None if value is None else str(value)


def _calibration_json(calibration: Calibration | None) -> dict[str, Any] | None:
  return None if calibration is None else calibration.to_json()


def _with_tuples(values: Any) -> ConfigDict:
  """A config from JSON, where its tuples are lists."""

  def convert(value: Any) -> Any:
    if isinstance(value, dict):
      return {name: convert(item) for name, item in value.items()}
    return tuple(map(convert, value)) if isinstance(value, list) else value

  return ConfigDict(convert(values))
