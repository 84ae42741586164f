"""Writes a trained model as one file that needs JAX alone: python -m memkd_jax.export."""

import argparse
import dataclasses
import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

import memkd_jax
from memkd_jax import files
from memkd_jax.detector import Detector, load
from memkd_jax.errors import UserError, explain

FORMAT = 1
PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM, METADATA = 'model.jaxexport', 'metadata.json'


def export_program(detector: Detector) -> bytes:
  """The detector from pixels to maps, with its parameters inside.

  Args:
    detector: with float32 or bfloat16 parameters.

  Returns:
    What `jax.export.deserialize` takes; its `call` takes uint8 [B, S, S, 3] for any B and
    gives maps, float32 [B, S, S], and scores, float32 [B].
  """
  variables = jax.tree.map(np.asarray, detector.variables)
  teacher_params = detector.system.one_copy()
  size = detector.image_size
  (batch,) = jax_export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)
  score = jax.jit(lambda images: detector.system.score(variables, teacher_params, images))
  return bytes(jax_export.export(score, platforms=PLATFORMS)(images).serialize())


def describe(detector: Detector, program: bytes) -> dict[str, Any]:
  """What metadata.json holds: all that is needed beside the program.

  Args:
    detector: that was exported.
    program: of `export_program`.

  Returns:
    JSON values.
  """
  model, calibration = detector.system.config.model, detector.calibration
  threshold: dict[str, Any] | None = None
  if calibration is not None and detector.threshold is not None:
    rate = detector.threshold.false_alarm_rate
    threshold = {
      **dataclasses.asdict(detector.threshold),
      'pixel': calibration.pixel_threshold(rate),
      'rule': 'an image is anomalous where its score exceeds value',
      'held_out_scores': calibration.scores.tolist(),
      'p_value': '(1 + number of held_out_scores >= score) / (their number + 1)',
    }
  return {
    'format': FORMAT,
    'category': detector.category,
    'image_size': detector.image_size,
    'input': 'images, uint8 [B, image_size, image_size, 3], RGB',
    'resize': 'apply the EXIF orientation, convert to RGB, resize to a square of image_size '
    'pixels with Pillow: Image.resize((image_size, image_size), Image.Resampling.BILINEAR)',
    'output': 'maps, float32 [B, image_size, image_size]; scores, float32 [B]',
    'threshold': threshold,
    'backbone': model.backbone,
    'paradigm': model.paradigm,
    'dtype': model.dtype,
    'notes': detector.notes,
    'platforms': list(PLATFORMS),
    'versions': {'memkd_jax': memkd_jax.__version__, 'jax': jax.__version__},
    'sha256': {PROGRAM: hashlib.sha256(program).hexdigest()},
  }


def write_model(path: Path, detector: Detector) -> None:
  """Writes the zip of program and metadata, complete or not at all.

  Args:
    path: of the file.
    detector: to be exported.

  Raises:
    OSError: it cannot be written.
  """
  program = export_program(detector)
  metadata = json.dumps(describe(detector, program), indent=2, allow_nan=False) + '\n'
  with (
    files.replacing(path) as temporary,
    zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as archive,  # parameters are noise
  ):
    archive.writestr(PROGRAM, program)
    archive.writestr(METADATA, metadata)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code, 0 or 1."""
  flags = _parser().parse_args(arguments)
  out = Path(flags.out).expanduser()
  try:
    detector = load(
      flags.workdir,
      flags.category,
      seed=flags.seed,
      false_alarm_rate=flags.false_alarm_rate,
      teacher_weights=flags.teacher_weights,
    )
    write_model(out, detector)
  except (UserError, OSError) as error:
    print(f'export: {explain(error)}', file=sys.stderr)
    return 1
  for note in detector.notes:
    print(f'Note: {note}')
  if detector.threshold is None:
    print('Note: there is no threshold in it; --config.train.holdout=0.1 makes one.')
  print(f'{out}: {out.stat().st_size / 1e6:.1f} MB, for {", ".join(PLATFORMS)}.')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m memkd_jax.export',
    description='Writes a trained model as one file that needs JAX alone.',
  )
  add = parser.add_argument
  add('--workdir', required=True, help="the run's folder")
  add('--category', help='that was trained; needed where there are several')
  add('--seed', type=int, help='of the run; the first where none is given')
  add('--out', required=True, help='the file, such as bottle.memkd')
  add('--false-alarm-rate', type=float, help='of the threshold that is stored')
  add('--teacher-weights', help='where the teacher lies now, if it was moved')
  return parser


if __name__ == '__main__':
  sys.exit(main())
