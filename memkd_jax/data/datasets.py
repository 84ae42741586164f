"""The data sets by name: their categories, their readers, where to get them."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memkd_jax.data import image_list
from memkd_jax.data.framing import RGB
from memkd_jax.data.listing import (
  category_folder,
  explain_archive,
  explain_missing_root,
  list_folders,
  list_images_below,
)
from memkd_jax.data.names import MODULES
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.errors import UserError

SOURCES = ('folder', 'tfds')


DATASETS: dict[str, Dataset] = {
  name: importlib.import_module(f'memkd_jax.data.{module}').DATASET
  for name, module in MODULES.items()
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set that is there, as files or prepared.

  Attributes:
    root: where the data set is, for errors.
    categories: names of the categories that it can have.
    list_samples: `(category, split) -> samples`, see `folder.list_samples`.
    notes: `category -> sentences` on how its files were read, and what is left out.
  """

  root: str
  categories: tuple[str, ...]
  list_samples: Callable[[str, str], list[Sample]]
  notes: Callable[[str], Sequence[str]] = lambda category: ()


def open_source(
  name: str, source: str, directory: str, fields: Mapping[str, Any] | None = None
) -> Source:
  """Finds a data set; the demo's is made first where it is missing.

  Args:
    name: name of the data set, a key of `DATASETS`.
    source: 'folder' for files as their publisher ships them, 'tfds' for what
      `tools/prepare_tfds.py` made of them.
    directory: where the data are; for 'tfds' anything that TFDS opens.
    fields: the section `data` of a config, whose `Dataset.options` the reader takes.

  Raises:
    UserError: there are no such data.
  """
  dataset = DATASETS[name]
  if fields and tuple(fields.get('inputs', (RGB,))) != (RGB,):
    _check_inputs(name, dataset)
  if source == 'tfds':
    from memkd_jax.data.tfds import source as prepared_files  # takes seconds to import

    prepared = tuple(prepared_files.list_categories(directory, name))
    if not prepared:
      raise UserError(
        f'Nothing of {name} is prepared in {directory}: run '
        f'memkd prepare-tfds --dataset={name} --data=DATA --out={directory}, '
        'or name another directory with --config.data.dir=DIR.'
      )
    known = dataset.categories or prepared
    return Source(
      directory,
      known,
      functools.partial(prepared_files.list_samples, directory, name),
      functools.partial(prepared_files.read_notes, directory, name),
    )
  root = Path(directory)
  _check_root(dataset, root)
  options = {name: fields[name] for name in dataset.options if fields and name in fields}
  if dataset.is_listed:
    known = (image_list.category_of(root),)
  elif dataset.list_categories is not None:
    list_here = functools.partial(dataset.list_categories, **options)
    known = tuple(list_here(root))
    if not known:
      raise UserError(
        f'{root} holds no category{_explain_no_category(root, list_here)}; '
        f'expected layout: {dataset.layout}.'
      )
  else:
    known = dataset.categories or ()
    if not any((root / category).is_dir() for category in known):
      category_folder(root, known[0], dataset.layout)  # says where they are
  return Source(
    directory,
    known,
    functools.partial(dataset.list_samples, root, **options),
    functools.partial(dataset.notes, root, **options),
  )


def choose_categories(source: Source, choice: str) -> list[str]:
  """Resolves `data.categories`: 'all', or names separated by commas.

  Args:
    source: the opened data set, which knows its categories.
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


def _explain_no_category(root: Path, list_categories: Callable[[Path], list[str]]) -> str:
  """What to say of a root that has no folder with training images: ' but ...', or nothing."""
  if root.name in list_categories(root.parent):
    return (
      f' but is one itself: pass --config.data.dir={root.parent} '
      f'--config.data.categories={root.name}'
    )
  for deeper in list_folders(root):
    if list_categories(deeper):
      return f' but one level deeper: pass --config.data.dir={deeper}'
  if archive := explain_archive(root):
    return archive
  if list_images_below(root)[0]:
    return f' but images: if all of them are good, pass --good={root} instead'
  return ''


def _check_inputs(name: str, dataset: Dataset) -> None:
  """Raises UserError where a data set has photographs alone."""
  if 'inputs' not in dataset.options:
    others = ', '.join(key for key, other in DATASETS.items() if 'inputs' in other.options)
    raise UserError(
      f'--config.data.inputs: {name} has photographs alone; depth and normals are in {others}.'
    )


def _check_root(dataset: Dataset, root: Path) -> None:
  if dataset.prepare is not None and not root.exists():
    try:
      dataset.prepare(root)
    except OSError as error:
      raise UserError(
        f'The demo cannot write its data to {root} ({error.strerror}); '
        'name another folder with --config.data.dir=DIR.'
      ) from error
  if not root.is_dir() and not (dataset.is_listed and root.exists()):
    raise UserError(
      f'There is no data folder {root}{explain_missing_root(root)}. {dataset.where}; expected '
      f'layout: {dataset.layout}. Name another folder with --config.data.dir=DIR.'
    )
