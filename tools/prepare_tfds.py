"""Prepares a data set for TFDS, once, so that it can be read from a disk or a bucket.

  python tools/prepare_tfds.py --dataset=mvtec_ad --data=DATA --out=OUT [--categories=a,b]

DATA is the folder as its publisher ships it. Categories that OUT has already are left
alone, so the same command goes on after an interruption.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from memkd_jax.data.datasets import DATASETS, choose_categories, open_source
from memkd_jax.data.tfds import builder, source
from memkd_jax.errors import UserError, explain

_DATASET = flags.DEFINE_enum('dataset', None, list(DATASETS), 'Its name.', required=True)
_DATA = flags.DEFINE_string('data', None, 'The folder of the data set.', required=True)
_OUT = flags.DEFINE_string('out', None, 'The TFDS directory to write.', required=True)
_CATEGORIES = flags.DEFINE_string('categories', 'all', 'Names separated by commas, or all.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  try:
    complete = _prepare()
  except KeyboardInterrupt:
    sys.exit('prepare_tfds: interrupted; the same command goes on.')
  sys.exit(0 if complete else 1)


def _prepare() -> bool:
  """Prepares each category, whatever becomes of the others; whether all succeeded."""
  name, root = _DATASET.value, Path(_DATA.value).expanduser()
  try:
    categories = choose_categories(open_source(name, 'folder', str(root)), _CATEGORIES.value)
  except (UserError, OSError) as error:
    # The readers know the flags of the run that will follow.
    reason = explain(error).replace('--config.data.dir', '--data')
    sys.exit(f'prepare_tfds: {reason}')
  failed = 0
  for category in categories:
    try:
      builder.prepare(name, category, root, _OUT.value)
      print(source.category_path(_OUT.value, name, category), flush=True)
    except (UserError, OSError) as error:
      print(f'prepare_tfds: {category} failed: {explain(error)}', file=sys.stderr)
      failed += 1
  return not failed


if __name__ == '__main__':
  app.run(main)
