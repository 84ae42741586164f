"""Prepares a data set for TFDS, once, so that it can be read from a disk or a bucket.

  python tools/prepare_tfds.py --dataset=mvtec_ad --data=DATA --out=OUT [--categories=a,b]

DATA is the folder as its publisher ships it. Categories that OUT has already are left
alone, so the same command goes on after an interruption.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from memkd_jax.data import tfds_builder, tfds_source
from memkd_jax.data.datasets import DATASETS, choose_categories, open_dataset
from memkd_jax.errors import UserError

_DATASET = flags.DEFINE_enum('dataset', None, list(DATASETS), 'Its name.', required=True)
_DATA = flags.DEFINE_string('data', None, 'The folder of the data set.', required=True)
_OUT = flags.DEFINE_string('out', None, 'The TFDS directory to write.', required=True)
_CATEGORIES = flags.DEFINE_string('categories', 'all', 'Names separated by commas, or all.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  try:
    _prepare()
  except UserError as error:
    sys.exit(f'prepare_tfds: {error}')
  except OSError as error:
    sys.exit(f'prepare_tfds: cannot read {_DATA.value}: {error.strerror}.')
  except KeyboardInterrupt:
    sys.exit('prepare_tfds: interrupted; the same command goes on.')


def _prepare() -> None:
  name, root = _DATASET.value, Path(_DATA.value).expanduser()
  dataset = DATASETS[name]
  if dataset.prepare is None and not root.is_dir():
    raise UserError(f'There is no folder {root}. {dataset.where}, and name it with --data.')
  categories = choose_categories(open_dataset(name, root), root, _CATEGORIES.value)
  for category in categories:
    tfds_builder.prepare(name, category, root, _OUT.value)
    print(tfds_source.category_path(_OUT.value, name, category))


if __name__ == '__main__':
  app.run(main)
