"""Writes a trained model as one file that needs neither this package nor the run's folder.

  memkd export --workdir=DIR --category=bottle --out=bottle.memkd
  memkd export --workdir=DIR --category=bottle --out=bottle.onnx

docs/export.md says what the two files hold and how to run them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memkd_jax import cli
from memkd_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, or 1 where the input is wrong."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('export', lambda: _run(flags))


def _run(flags: argparse.Namespace) -> None:
  from memkd_jax.deploy import exported, onnx

  out = Path(flags.out).expanduser()
  if out.is_dir():
    raise UserError(f'{out} is a folder; name a file with --out.')
  detector = cli.load_named(flags)
  if out.suffix == '.onnx':
    values = exported.metadata(detector)
    difference = onnx.write(detector, out, values)
    print(f'Maps differ by {difference:.1e} at most in onnxruntime, on random images.')
  else:
    values = exported.write(detector, out)
  for note in values['notes']:
    print(f'Note: {note}')
  if detector.undecided:
    print(f'Note: {detector.undecided}')
  threshold = values['threshold']
  decides = f'threshold {threshold["value"]:.4g}' if threshold else 'no threshold'
  print(f'Wrote {out}: {detector.category}, {decides}, {out.stat().st_size / 1e6:,.1f} MB.')


def _parser() -> cli.Parser:
  parser = cli.Parser(
    'export', 'Writes a trained model as one file that runs without this package.'
  )
  cli.add_model_flags(parser)
  cli.add_threshold_flags(parser)
  parser.add_argument(
    '--out',
    required=True,
    metavar='FILE',
    help='the file to write, for example bottle.memkd, or bottle.onnx for an ONNX model; one '
    'that is there is replaced',
  )
  return parser


if __name__ == '__main__':
  cli.start(main)
