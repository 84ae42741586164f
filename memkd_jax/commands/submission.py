"""Writes the archive that the benchmark server of MVTec AD 2 takes.

  memkd submission --workdir=DIR --data=DATA --out=FOLDER

Scores both private test sets with the models of a run, writes maps and decisions to FOLDER, and
packs it as FOLDER.tar.gz where all eight categories are complete. Images that are done are left
alone, so the same command goes on after an interruption.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memkd_jax import cli
from memkd_jax.errors import UserError
from memkd_jax.runtime import interrupt

RULES = ('three-sigma', 'calibrated')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (not complete) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('submission', lambda: _run(flags), '; the same command goes on')


def _run(flags: argparse.Namespace) -> int:
  from memkd_jax.deploy import submission
  from memkd_jax.detector import load_all

  data, out = Path(flags.data).expanduser(), Path(flags.out).expanduser().absolute()
  with interrupt.handled():
    detectors = load_all(flags.workdir, seed=flags.seed, teacher_weights=flags.teacher_weights)
    chosen = [found for found in detectors if found.category in submission.EXPECTED]
    if not chosen:
      raise UserError(
        f'{flags.workdir} holds no model of a category of MVTec AD 2; train them with '
        f'memkd train --config=mvtec_ad_2 --workdir={flags.workdir}.'
      )
    for detector in chosen:
      threshold = None
      if flags.threshold == 'calibrated':
        threshold = detector.pixel_threshold()
        if threshold is None:
          raise UserError(f'{detector.category}: {detector.undecided}')
      value = submission.write_category(detector, data, out, threshold)
      print(f'{detector.category}: pixels above {value:.6g} are called anomalous.', flush=True)
    if wrong := submission.problems(out):
      cli.say('\n'.join(['Not archived, for the server would not take it:', *wrong]))
      return 1
    print(submission.archive(out), flush=True)
  return 0


def _parser() -> cli.Parser:
  parser = cli.Parser('submission', 'Writes the archive for the server of MVTec AD 2.')
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR', help="the run's folder")
  add('--data', required=True, metavar='FOLDER', help='the data set as published')
  add('--out', required=True, metavar='FOLDER', help='to write; FOLDER.tar.gz is the archive')
  add(
    '--threshold',
    default=RULES[0],
    choices=RULES,
    help='of pixels: mean and three deviations of the validation images, as in the '
    "publisher's baseline; or what the model decides by",
  )
  add('--seed', type=int, help='of the run; its first if left out')
  add('--teacher-weights', metavar='FILE', help="where the teacher's weights lie now")
  return parser
