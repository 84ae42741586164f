"""Scores a folder of anomaly maps, whoever made them, at original size.

  memkd score-maps --maps=MAPS --data=DATA [--dataset=NAME] [--categories=a,b] [--out=FILE.json]

MAPS/<category>/test/<defect>/<id>.tiff (or .npy) are the maps, and DATA is the data set in the
layout of MVTec AD, DATA/<category>/{test,ground_truth}/, or of the one that is named.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from memkd_jax import cli
from memkd_jax.data.names import MODULES
from memkd_jax.errors import UserError, explain


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code: 0, or 1 where something failed."""
  flags = _parser().parse_args(argv)
  return cli.exit_code('score-maps', lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
  from memkd_jax.files import atomic
  from memkd_jax.report.results import assemble, results_table
  from memkd_jax.scoring import external_maps

  maps, data = Path(flags.maps).expanduser(), Path(flags.data).expanduser()
  names = [name.strip() for name in flags.categories.split(',') if name.strip()]
  categories = names or external_maps.list_categories(maps)
  if not categories:
    raise UserError(f'there are no maps in {maps}; <category>/test/<defect>/<id>.tiff.')
  scored, failed = {}, {}
  for category in categories:
    try:
      scored[category] = external_maps.score_category(maps, data, category, flags.dataset)
    except (UserError, OSError) as error:
      failed[category] = explain(error)
  results = assemble(data.name, '', [], [scored], failed, [])
  print(results_table(results))
  if flags.out:
    extra = {
      name: {category: result[name] for category, result in scored.items()}
      for name in ('aupro', 'aupimo', 'i_auc_interval', 'per_defect')
    }
    try:
      atomic.write_json(Path(flags.out).expanduser(), results | extra)
    except OSError as error:
      raise UserError(f'cannot write {flags.out}: {error.strerror}.') from error
  return 1 if failed else 0


def _parser() -> cli.Parser:
  parser = cli.Parser('score-maps', 'Scores anomaly maps of any method, at original size.')
  add = parser.add_argument
  add('--maps', required=True, metavar='FOLDER', help='the maps')
  add('--data', required=True, metavar='FOLDER', help='the data set')
  add(
    '--dataset',
    default='folder',
    choices=[name for name, module in MODULES.items() if name == 'folder' or '.' in module],
    metavar='NAME',
    help='whose layout the data set has; that of MVTec AD if left out',
  )
  add(
    '--categories',
    default='',
    metavar='NAMES',
    help='names separated by commas; all that have maps if left out',
  )
  add('--out', metavar='FILE', help='a JSON file for all figures, unrounded')
  return parser
