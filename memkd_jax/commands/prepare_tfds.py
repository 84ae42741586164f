"""Prepares a data set for TFDS, once, so that it can be read from a disk or a bucket.

  memkd prepare-tfds --dataset=mvtec_ad --data=DATA --out=OUT [--categories=a,b]

DATA is the folder as its publisher ships it. Categories that OUT has already are left
alone, so the same command goes on after an interruption.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memkd_jax import cli
from memkd_jax.data.datasets import DATASETS, choose_categories, open_source
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import interrupt


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, 1 (something failed) or 75 (stopped)."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('prepare-tfds', lambda: _run(flags), '; the same command goes on')


def _run(flags: argparse.Namespace) -> int:
  """Prepares each category, whatever becomes of the others."""
  from memkd_jax.data.tfds import builder, source

  name, root = flags.dataset, Path(flags.data).expanduser()
  with interrupt.handled():
    try:
      categories = choose_categories(open_source(name, 'folder', str(root)), flags.categories)
    except (UserError, OSError) as error:
      # The readers know the flags of the run that will follow.
      reason = explain(error).replace('--config.data.dir', '--data')
      raise UserError(reason) from error
    failed = 0
    for category in categories:
      try:
        builder.prepare(name, category, root, flags.out)
        print(source.category_path(flags.out, name, category), flush=True)
      except (UserError, OSError) as error:
        cli.say(f'prepare-tfds: {category} failed: {explain(error)}')
        failed += 1
  return 1 if failed else 0


def _parser() -> cli.Parser:
  parser = cli.Parser('prepare-tfds', 'Prepares a data set for TFDS.')
  add = parser.add_argument
  add('--dataset', required=True, choices=DATASETS, help='its name')
  add('--data', required=True, metavar='FOLDER', help='the data set as published')
  add('--out', required=True, metavar='DIR', help='the TFDS directory to write')
  add(
    '--categories',
    default='all',
    metavar='NAMES',
    help='names separated by commas; all if left out',
  )
  return parser
