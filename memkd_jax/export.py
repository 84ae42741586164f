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
  is_onnx = out.suffix == '.onnx'
  if not is_onnx and (flags.batch is not None or flags.float16):
    raise UserError(
      f'--batch and --float16 are for ONNX models, and {out} is none; leave them out, or name '
      'a file that ends in .onnx.'
    )
  detector = cli.load_named(flags)
  if is_onnx and detector.trained.config.model.dtype == 'bfloat16':
    # Its parameters are float32 in any case; of the runtimes not all know convolutions in less.
    detector = cli.load_named(flags, dtype='float32')
    print(
      'Note: the model computes in bfloat16 and the file in float32, so that scores differ a '
      'little from those that its thresholds were set with.'
    )
  if is_onnx:
    values = exported.metadata(detector, flags.batch)
    differences = onnx.write(detector, out, values, flags.batch, flags.float16)
    found = ', '.join(f'{value:.1e} in {name}' for name, value in differences.items())
    print(f'On random images maps differ from those of JAX at most by {found}.')
  else:
    values = exported.write(detector, out)
  for note in values['notes']:
    print(f'Note: {note}')
  if detector.undecided:
    print(f'Note: {detector.undecided}')
  threshold = values['threshold']
  decides = f'threshold {threshold["value"]:.4g}' if threshold else 'no threshold'
  print(f'Wrote {out}: {detector.category}, {decides}, {out.stat().st_size / 1e6:,.1f} MB.')


def _positive(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError('give a number from 1')
  return number


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
  parser.add_argument(
    '--batch',
    type=_positive,
    metavar='N',
    help='of an ONNX model: how many images it takes, for what wants fixed shapes, as TensorRT '
    'does; any if left out',
  )
  parser.add_argument(
    '--float16',
    action='store_true',
    help='of an ONNX model: keep parameters in half the bytes; it computes in float32 still',
  )
  return parser


if __name__ == '__main__':
  cli.start(main)
