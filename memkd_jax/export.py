"""Writes a trained model as one file that needs neither this package nor the run's folder.

  python -m memkd_jax.export --workdir=DIR --category=bottle --out=bottle.memkd
  python -m memkd_jax.export --workdir=DIR --category=bottle --out=bottle.onnx

docs/export.md says what the two files hold and how to run them.
"""

import argparse
import sys
from pathlib import Path

from memkd_jax.cli import add_model_flags, load_named
from memkd_jax.deploy import exported, onnx
from memkd_jax.errors import UserError, explain


def main(argv: list[str] | None = None) -> None:
  """The command; ends with code 1 and one sentence where the input is wrong."""
  arguments = _parser().parse_args(argv)
  out = Path(arguments.out).expanduser()
  try:
    if out.is_dir():
      raise UserError(f'{out} is a folder; name a file with --out.')
    detector = load_named(arguments)
    if out.suffix == '.onnx':
      values = exported.metadata(detector)
      difference = onnx.write(detector, out, values)
      print(f'Maps differ by {difference:.1e} at most in onnxruntime, on random images.')
    else:
      values = exported.write(detector, out)
  except (UserError, OSError) as error:
    sys.exit(f'export: {explain(error)}')
  for note in values['notes']:
    print(f'Note: {note}')
  threshold = values['threshold']
  decides = f'threshold {threshold["value"]:.4g}' if threshold else 'no threshold'
  print(f'Wrote {out}: {detector.category}, {decides}, {out.stat().st_size / 1e6:,.1f} MB.')


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m memkd_jax.export',
    description='Writes a trained model as one file that runs without this package.',
    allow_abbrev=False,
  )
  add_model_flags(parser)
  parser.add_argument(
    '--out',
    required=True,
    metavar='FILE',
    help='the file to write, for example bottle.memkd, or bottle.onnx for an ONNX model; one '
    'that is there is replaced',
  )
  return parser


if __name__ == '__main__':
  main()
