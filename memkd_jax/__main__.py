"""The command `memkd`, or python -m memkd_jax: one name for all that the package does."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import memkd_jax
from memkd_jax import cli


class Command(NamedTuple):
  """A subcommand.

  Attributes:
    module: its module, with `main(argv)`, imported when the command is asked for.
    help: what it does, for --help.
    flags: given to it after all others.
    computes: see `cli.prepare_process`.
  """

  module: str
  help: str
  flags: tuple[str, ...] = ()
  computes: bool = False


COMMANDS = {
  'advise': Command('commands.advise', 'propose size and tiles for images', computes=True),
  'train': Command('main', 'train models, and evaluate them', computes=True),
  'evaluate': Command(
    'main', 'evaluate models that are trained already', ('--mode=evaluate',), computes=True
  ),
  'predict': Command('predict', 'score images with a trained model', computes=True),
  'export': Command('export', 'write a trained model as one file, its own or ONNX'),
  'serve': Command('serve', 'serve trained models on a web page', computes=True),
  'calibrate': Command('calibrate', 'set a threshold from new normal images', computes=True),
  'datasets': Command('commands.datasets', 'list benchmarks, and check a copy of one'),
  'weights': Command('commands.weights', "convert a teacher's weights"),
  'score-maps': Command('commands.score_maps', 'score anomaly maps of any method'),
  'prepare-tfds': Command('commands.prepare_tfds', 'prepare a data set for TFDS'),
  'submission': Command(
    'commands.submission', 'write the archive for the server of MVTec AD 2', computes=True
  ),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a subcommand.

  Args:
    argv: the command line behind `memkd`; this process's own if None.

  Returns:
    Its exit code.
  """
  given = sys.argv[1:] if argv is None else list(argv)
  name = _parser().parse_args(given[:1]).command
  command = COMMANDS[name]
  if argv is None:
    cli.prepare_process(command.computes)
  module = importlib.import_module(f'memkd_jax.{command.module}')
  return module.main([*given[1:], *command.flags]) or 0


def _parser() -> cli.Parser:
  parser = cli.Parser(
    '',
    'Visual anomaly detection with memory-guided knowledge distillation.',
    usage='memkd COMMAND [FLAG ...]',
    epilog='memkd COMMAND --help lists the flags of a command.',
  )
  parser.add_argument('--version', action='version', version=f'memkd {memkd_jax.__version__}')
  commands = parser.add_subparsers(
    title='commands', dest='command', metavar='COMMAND', parser_class=argparse.ArgumentParser
  )
  commands.required = True
  for name, command in COMMANDS.items():
    commands.add_parser(name, help=command.help, add_help=False)
  return parser


if __name__ == '__main__':
  sys.exit(main())
