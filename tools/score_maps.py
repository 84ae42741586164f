"""Scores a folder of anomaly maps, whoever made them, at original size.

  python tools/score_maps.py --maps=MAPS --data=DATA [--categories=a,b] [--out=FILE.json]

MAPS/<category>/test/<defect>/<id>.tiff (or .npy) are the maps, and
DATA/<category>/{test,ground_truth}/ the data set in the layout of MVTec AD.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic
from memkd_jax.report.results import assemble, results_table
from memkd_jax.scoring import external_maps

_MAPS = flags.DEFINE_string('maps', None, 'The folder of the maps.', required=True)
_DATA = flags.DEFINE_string('data', None, 'The folder of the data set.', required=True)
_CATEGORIES = flags.DEFINE_list(
  'categories', [], 'Names; all that have maps where none is given.'
)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for all figures, unrounded.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  maps, data = Path(_MAPS.value).expanduser(), Path(_DATA.value).expanduser()
  categories = _CATEGORIES.value or external_maps.list_categories(maps)
  if not categories:
    sys.exit(f'score_maps: there are no maps in {maps}; <category>/test/<defect>/<id>.tiff.')
  scored, failed = {}, {}
  for category in categories:
    try:
      scored[category] = external_maps.score_category(maps, data, category)
    except (UserError, OSError) as error:
      failed[category] = explain(error)
  results = assemble(data.name, [], [scored], failed, [])
  print(results_table(results))
  if _OUT.value:
    extra = {
      name: {category: result[name] for category, result in scored.items()}
      for name in ('aupro', 'aupimo', 'i_auc_interval', 'per_defect')
    }
    try:
      atomic.write_json(Path(_OUT.value).expanduser(), results | extra)
    except OSError as error:
      sys.exit(f'score_maps: cannot write {_OUT.value}: {error.strerror}.')
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  app.run(main)
