"""A detector from an exported ONNX file, which needs neither JAX nor the run's folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from memkd_jax.data.framing import Framing
from memkd_jax.data.tiling import Tiling
from memkd_jax.deploy.runtimes import Program, open_model
from memkd_jax.errors import UserError
from memkd_jax.scoring.base import BaseDetector, check_asked
from memkd_jax.scoring.calibration import Calibration, choose_threshold, parse_calibration

# With a framing, and with other pictures than photographs: earlier readers do not know these.
FORMAT, FRAMED, SEVERAL = 2, 3, 4
_EXPORT = 'export it again (memkd export --workdir=DIR --out=FILE.onnx)'


class FileDetector(BaseDetector):
  """Scores images with an exported model; attributes as in `BaseDetector`."""

  def __init__(self, program: Program, values: dict[str, Any], calibration: Calibration | None):
    """Takes what `load_file` found, a program and its metadata; it does not decide yet."""
    self.category, self.method = values['category'], values['model']['method']
    self.tiling, self.framing = _framing(values)
    self.bits = values['bit_depth']
    self.batch_size = values['batch'] or values['batch_size']
    self.notes, self.device = list(values['notes']), program.device
    self._run, self._fixed = program.run, values['batch'] is not None
    self.decide_by(calibration, None)

  def compile(self) -> None:
    """Lets the runtime take the memory that it needs."""
    self.score_tiles(np.zeros((1, *self.tile_shape), np.uint8))

  def score_tiles(self, batch: np.ndarray, position: int = 0) -> tuple[np.ndarray, np.ndarray]:
    missing = self.batch_size - len(batch) if self._fixed else 0
    maps, scores = self._run(np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))))
    return maps[: len(batch)], scores[: len(batch)]


def load_file(
  path: Path | str,
  runtime: str = 'auto',
  *,
  false_alarm_rate: float | None = None,
  threshold: float | None = None,
) -> FileDetector:
  """Loads an exported model.

  Args:
    path: an ONNX file that `memkd export` wrote.
    runtime: what runs it, 'onnxruntime' or 'openvino'; 'auto' for the first that is installed.
    false_alarm_rate: the share of normal images that may be called anomalous; the one of the
      export if None.
    threshold: the threshold of the image score, in place of one that follows from a rate; the
      one of the export if None.

  Returns:
    The detector; its `undecided` says why, where it does not decide.

  Raises:
    UserError: there is no such file or runtime, the file is no such model, the rate cannot be
      supported, or the threshold is not finite or given together with a rate.
  """
  file = Path(path).expanduser()
  if file.suffix == '.memkd':
    raise UserError(
      f'{file} is a program of JAX: run it as docs/export.md says, or name an ONNX file '
      '(memkd export --workdir=DIR --out=FILE.onnx).'
    )
  program = open_model(file, runtime)
  values, calibration = _parse(file, program.metadata)
  detector = FileDetector(program, values, calibration)
  check_asked([(detector.category, calibration)], false_alarm_rate, threshold)
  stored = values['threshold']
  if false_alarm_rate is None and threshold is None and stored is not None:
    false_alarm_rate = stored['false_alarm_rate']
    threshold = stored['value'] if false_alarm_rate is None else None
  detector.decide_by(calibration, choose_threshold(calibration, threshold, false_alarm_rate))
  if detector.undecided:
    detector.undecided += f' After a calibration, {_EXPORT}.'
  return detector


def _parse(file: Path, text: str) -> tuple[dict[str, Any], Calibration | None]:
  """The metadata of a file, and its calibration; raises UserError where they are not ours."""
  try:
    values = json.loads(text)
    if values['format'] not in (FORMAT, FRAMED, SEVERAL):
      raise UserError(
        f'{file} was written by another version of memkd_jax, {values["memkd_jax"]}; {_EXPORT}.'
      )
    held_out = values['held_out']
    _check(values)
    return values, None if held_out is None else parse_calibration(held_out)
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{file} is no model that memkd export wrote; {_EXPORT}.') from error


def _check(values: dict[str, Any]) -> None:
  """Raises ValueError, KeyError or TypeError where a field that is used is something else."""
  _framing(values)
  for name in ('bit_depth', 'batch_size'):
    if type(values[name]) is not int or values[name] < 1:
      raise ValueError(name)
  if values['batch'] is not None and type(values['batch']) is not int:
    raise ValueError('batch')
  if not isinstance(values['category'], str) or not isinstance(values['notes'], list):
    raise ValueError('category')
  if values['threshold'] is not None:
    float(values['threshold']['value'])
  values['model']['method']


def _framing(values: dict[str, Any]) -> tuple[Tiling, Framing]:
  tiling = Tiling.of_json(values['image_size'], values.get('tiling'))
  return tiling, Framing.of_json(tiling.sizing, values.get('framing'))
