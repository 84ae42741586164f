"""Scores images with a trained model: memkd predict --workdir=DIR FILE...

With --model=FILE.onnx it imports neither JAX nor the model's code.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memkd_jax import cli
from memkd_jax.cli import say
from memkd_jax.runtime import interrupt
from memkd_jax.wording import counted

if TYPE_CHECKING:
  from memkd_jax.deploy.prediction import Prediction
  from memkd_jax.scoring.base import BaseDetector


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (something failed) or 75 (stopped)."""
  parser = _parser()
  flags = parser.parse_args(argv)
  if not flags.images + flags.files:
    parser.error('give images: --images=FOLDER, or files')
  if flags.out is None and (flags.maps or flags.masks or flags.regions or not flags.json):
    parser.error('give a folder for the results: --out=OUT (or --json alone)')
  left = '' if flags.out is None else '; scores.partial.csv ends there'
  return cli.exit_code('predict', lambda: _run(flags), left)


def _run(flags: argparse.Namespace) -> int:
  from memkd_jax.data.listing import LeftOut
  from memkd_jax.data.splits import describe_remarks
  from memkd_jax.deploy.prediction import Outputs, choose_objects, list_inputs, predict

  left_out: list[LeftOut] = []
  kinds: Counter[str] = Counter()
  remarks: list[str] = []

  def tell(row: 'Prediction') -> None:
    kinds['unreadable' if row.error else row.decision or 'not decided'] += 1
    if flags.json:
      _print_json(row)

  with interrupt.handled():
    paths = list_inputs([*flags.images, *flags.files], left_out)
    detector = _load(flags)
    paths = choose_objects(paths, detector.framing, left_out)
    _describe(detector)
    cli.say_begin(detector, len(paths), left_out)
    failed = predict(
      detector,
      paths,
      None if flags.out is None else Path(flags.out).expanduser(),
      Outputs(not flags.no_heat_maps, flags.maps, flags.masks, flags.regions, flags.min_area),
      flags.pixel_rate,
      tell=tell,
      notice=remarks.append,
    )
  for note in describe_remarks(remarks, detector.bits):
    say(f'Note: {note}')
  number = kinds.total()
  if failed:
    say(f'predict: {failed} of {counted(number, "image")} could not be read; see their rows.')
  say(f'{counted(number, "image")}: {_describe_kinds(kinds, len(left_out))}.')
  if flags.out is not None:
    what = counted(number, 'row is', 'rows are')
    say(f'{what} in {Path(flags.out) / "scores.csv"}.')
  return 1 if failed else 0


def _describe_kinds(kinds: 'Counter[str]', left_out: int) -> str:
  """'3 anomalous, 4 normal, 1 unreadable; 2 others were left out'."""
  order = ('anomalous', 'normal', 'not decided', 'unreadable')
  always = ('unreadable',) if kinds['not decided'] else ('anomalous', 'normal', 'unreadable')
  parts = [f'{kinds[kind]} {kind}' for kind in order if kinds[kind] or kind in always]
  others = f'; {counted(left_out, "other was", "others were")} left out' if left_out else ''
  return ', '.join(parts) + others


def _parser() -> cli.Parser:
  parser = cli.Parser('predict', 'Scores images with a trained model.')
  cli.add_model_flags(parser, files='store')
  cli.add_threshold_flags(parser)
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
    help='of --masks, --regions and --min-area: share of normal pixels that may exceed the '
    'pixel threshold; if left out the false-alarm rate, but 0.001 at most, or with a threshold '
    'by hand that threshold itself',
  )
  add('--no-heat-maps', action='store_true', help='write no pictures')
  add('--maps', action='store_true', help='write raw float32 TIFF maps')
  add('--masks', action='store_true', help='write binary masks')
  add(
    '--regions',
    action='store_true',
    help='write regions.csv and regions.coco.json: the connected parts of what is above the '
    'pixel threshold in anomalous images, with boxes on the heat maps',
  )
  add(
    '--min-area',
    type=_area,
    default=0,
    metavar='PIXELS',
    help='call an image anomalous only where it has a region of so many pixels',
  )
  add('--json', action='store_true', help='print one JSON object a line and image')
  return parser


def _area(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError('give a number of pixels from 1')
  return number


def _load(flags: argparse.Namespace) -> 'BaseDetector':
  if cli.names_files(flags):
    return cli.load_files(flags, [flags.model])[0]
  cli.start_jax_for(flags.workdir)
  return cli.load_named(flags)


def _describe(detector: 'BaseDetector') -> None:
  for note in detector.notes:
    say(f'Note: {note}')
  said = cli.describe_threshold(detector.calibration, detector.threshold)
  say(f'Note: {said}' if detector.threshold is None else said)


def _print_json(row: 'Prediction') -> None:
  values = row.columns()
  if row.regions is not None:
    values['regions'] = [region.facts() for region in row.regions]
  print(json.dumps(values), flush=True)


if __name__ == '__main__':
  cli.start(main)
