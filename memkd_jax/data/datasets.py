"""The data sets by name: their categories, their readers, where to get them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from memkd_jax.data import demo_textures, folder, mvtec_ad
from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A benchmark or a folder of one's own.

  Attributes:
    categories: the known ones, or None where every folder is a category.
    where: how to come by the data, one sentence without its full stop.
    list_samples: `(root, category, split) -> samples`, see `folder.list_samples`.
    prepare: makes the data at a root that does not exist yet, where they can be made.
  """

  categories: tuple[str, ...] | None
  where: str
  list_samples: Callable[[Path, str, str], list[Sample]] = folder.list_samples
  prepare: Callable[[Path], None] | None = None


DATASETS = {
  'mvtec_ad': Dataset(mvtec_ad.CATEGORIES, mvtec_ad.WHERE),
  'folder': Dataset(None, 'Put your own images there'),
  'demo': Dataset(
    demo_textures.CATEGORIES, 'The demo makes them itself', prepare=demo_textures.prepare
  ),
}


def open_dataset(name: str, root: Path) -> Dataset:
  """Finds a data set on disk, making the demo's first where it is missing.

  Raises:
    UserError: there is nothing at `root`.
  """
  dataset = DATASETS[name]
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
      f'There is no data folder {root}. {dataset.where}; expected layout: {folder.LAYOUT}. '
      'Name another folder with --config.data.dir=DIR.'
    )
  return dataset


def choose_categories(dataset: Dataset, root: Path, choice: str) -> list[str]:
  """Resolves `data.categories`: 'all', or names separated by commas.

  Args:
    dataset: an opened data set.
    root: its folder.
    choice: what the user asked for.

  Returns:
    The names without repetition, in the order asked for.

  Raises:
    UserError: a name is unknown, or there is none.
  """
  known = list(dataset.categories or folder.list_categories(root))
  if not known:
    raise UserError(f'{root} holds no category; expected layout: {folder.LAYOUT}.')
  chosen = list(dict.fromkeys(name.strip() for name in choice.split(',') if name.strip()))
  if chosen == ['all']:
    return known
  unknown = [name for name in chosen if name not in known]
  if unknown or not chosen:
    raise UserError(
      f'data.categories={choice!r} names no category that {root} can have'
      f'{": " + ", ".join(unknown) if unknown else ""}; known are {", ".join(known)}.'
    )
  return chosen
