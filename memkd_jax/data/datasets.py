"""The data sets by name: their categories, their readers, where to get them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from memkd_jax.data import folder
from memkd_jax.data.benchmarks import demo_textures, eyecandies, mpdd, mvtec_3d, mvtec_ad, visa
from memkd_jax.data.listing import category_folder, explain_missing_root, explain_no_category
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.errors import UserError

SOURCES = ('folder', 'tfds')


# Each is described by its reader. A further one is a file and a line here.
DATASETS = {
  'mvtec_ad': mvtec_ad.DATASET,
  'visa': visa.DATASET,
  'mpdd': mpdd.DATASET,
  'mvtec_3d': mvtec_3d.DATASET,
  'eyecandies': eyecandies.DATASET,
  'folder': folder.DATASET,
  'demo': demo_textures.DATASET,
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set that is there, as files or prepared.

  Attributes:
    root: where the data set is, for errors.
    categories: names of the categories that it can have.
    list_samples: `(category, split) -> samples`, see `folder.list_samples`.
  """

  root: str
  categories: tuple[str, ...]
  list_samples: Callable[[str, str], list[Sample]]


def open_source(name: str, source: str, directory: str) -> Source:
  """Finds a data set; the demo's is made first where it is missing.

  Args:
    name: a key of `DATASETS`.
    source: 'folder' for files as their publisher ships them, 'tfds' for what
      `tools/prepare_tfds.py` made of them.
    directory: where the data are; for 'tfds' anything that TFDS opens.

  Raises:
    UserError: there are no such data.
  """
  dataset = DATASETS[name]
  if source == 'tfds':
    from memkd_jax.data.tfds import source as prepared_files  # takes seconds to import

    prepared = tuple(prepared_files.list_categories(directory, name))
    if not prepared:
      raise UserError(
        f'Nothing of {name} is prepared in {directory}: run '
        f'python tools/prepare_tfds.py --dataset={name} --data=DATA --out={directory}, '
        'or name another directory with --config.data.dir=DIR.'
      )
    known = dataset.categories or prepared
    return Source(
      directory, known, functools.partial(prepared_files.list_samples, directory, name)
    )
  root = Path(directory)
  _check_root(dataset, root)
  if dataset.categories is None:
    known = tuple(folder.list_categories(root))
    if not known:
      raise UserError(
        f'{root} holds no category{explain_no_category(root)}; '
        f'expected layout: {dataset.layout}.'
      )
  else:
    known = dataset.categories
    if not any((root / category).is_dir() for category in known):
      category_folder(root, known[0], dataset.layout)  # says where they are
  return Source(directory, known, functools.partial(dataset.list_samples, root))


def choose_categories(source: Source, choice: str) -> list[str]:
  """Resolves `data.categories`: 'all', or names separated by commas.

  Args:
    source: an opened data set.
    choice: the field's value, as the user gave it.

  Returns:
    The names without repetition, in the order asked for.

  Raises:
    UserError: a name is unknown, or there is none.
  """
  known = list(source.categories)
  chosen = list(dict.fromkeys(name.strip() for name in choice.split(',') if name.strip()))
  if chosen == ['all']:
    return known
  unknown = [name for name in chosen if name not in known]
  if unknown or not chosen:
    raise UserError(
      f'data.categories={choice!r} names no category that {source.root} can have'
      f'{": " + ", ".join(unknown) if unknown else ""}; known are {", ".join(known)}.'
    )
  return chosen


def _check_root(dataset: Dataset, root: Path) -> None:
  if dataset.prepare is not None and not root.exists():
    try:
      dataset.prepare(root)
    except OSError as error:
      raise UserError(
        f'The demo cannot write its data to {root} ({error.strerror}); '
        'name another folder with --config.data.dir=DIR.'
      ) from error
  if not root.is_dir():
    raise UserError(
      f'There is no data folder {root}{explain_missing_root(root)}. {dataset.where}; expected '
      f'layout: {dataset.layout}. Name another folder with --config.data.dir=DIR.'
    )
