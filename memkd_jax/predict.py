"""Scores images with a trained model: python -m memkd_jax.predict --workdir=DIR FILE..."""

import sys

from memkd_jax.runtime import huge_pages

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # before the imports that take seconds

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.cli import add_model_flags, load_named
from memkd_jax.deploy.prediction import Outputs, Prediction, list_inputs, predict
from memkd_jax.detector import Detector
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import compile_cache, interrupt


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (something failed) or 75 (stopped)."""
  parser = _parser()
  flags = parser.parse_args(arguments)
  patterns = [*flags.images, *flags.files]
  if not patterns:
    parser.error('give images: --images=FOLDER, or files')
  if flags.out is None and (flags.maps or flags.masks or not flags.json):
    parser.error('give a folder for the results: --out=OUT (or --json alone)')
  try:
    with interrupt.handled():
      paths = list_inputs(patterns)
      if problem := compile_cache.enable():
        _say(problem)
      detector = load_named(flags)
      _describe(detector)
      failed = predict(
        detector,
        paths,
        None if flags.out is None else Path(flags.out).expanduser(),
        Outputs(not flags.no_heat_maps, flags.maps, flags.masks),
        flags.pixel_rate,
        tell=_print_json if flags.json else lambda row: None,
      )
  except (UserError, OSError) as error:
    print(f'predict: {explain(error)}', file=sys.stderr)
    return 1
  except interrupt.Interrupted as signal:
    left = '' if flags.out is None else '; scores.partial.csv ends there'
    print(f'predict: stopped by {signal}{left}.', file=sys.stderr)
    return interrupt.EXIT_CODE
  if failed:
    print(
      f'predict: {failed} of {len(paths)} images could not be read; their rows say why.',
      file=sys.stderr,
    )
  if flags.out is not None:
    _say(f'{len(paths)} rows are in {Path(flags.out) / "scores.csv"}.')
  return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m memkd_jax.predict', description='Scores images with a trained model.'
  )
  add_model_flags(parser)
  add = parser.add_argument
  add(
    '--images',
    action='append',
    default=[],
    metavar='FOLDER|GLOB',
    help='a folder, with its subfolders, or a quoted pattern; may be given again',
  )
  add('files', nargs='*', metavar='FILE', help='an image')
  add('--out', help='folder for scores.csv, heat maps and what else is asked for')
  add(
    '--pixel-rate',
    type=float,
    help='with --masks: share of normal pixels that may exceed the pixel threshold; the '
    'false-alarm rate where none is given',
  )
  add('--no-heat-maps', action='store_true', help='write no pictures')
  add('--maps', action='store_true', help='write raw float32 TIFF maps')
  add('--masks', action='store_true', help='write binary masks')
  add('--json', action='store_true', help='print one JSON object a line and image')
  return parser


def _describe(detector: Detector) -> None:
  for note in detector.notes:
    _say(f'Note: {note}')
  threshold, calibration = detector.threshold, detector.calibration
  if threshold is None or calibration is None:
    _say(
      'Note: there is no threshold, so p_value and decision stay empty; train with '
      '--config.train.holdout=0.1 to have one.'
    )
    return
  low, high = threshold.interval
  _say(
    f'Threshold {threshold.value:.4f}: of normal images {100 * threshold.expected:.2g}% are '
    f'expected to score higher (95% interval {100 * low:.2g}% to {100 * high:.2g}%, from '
    f'{len(calibration.scores)} held-out images).'
  )


def _print_json(row: Prediction) -> None:
  print(json.dumps(dataclasses.asdict(row)), flush=True)


def _say(sentence: str) -> None:
  """On stderr: stdout is for what can be piped."""
  print(sentence, file=sys.stderr, flush=True)


if __name__ == '__main__':
  sys.exit(main())
