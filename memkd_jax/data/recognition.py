"""Finds out which data set lies in a folder, by its categories and its layout."""

from pathlib import Path

from memkd_jax.data import image_list
from memkd_jax.data.benchmarks.counts import published
from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.listing import (
  explain_archive,
  explain_missing_root,
  list_folders,
  list_images_below,
)
from memkd_jax.data.sample import Dataset
from memkd_jax.data.survey import surveyed
from memkd_jax.errors import UserError


def recognise(root: Path) -> str:
  """The data set that lies in a folder, a key of `DATASETS`.

  It is the published one of whose categories most are there; where that is less than half, or
  several have some, as their readers find them, with no more images than were published. Or it
  is a layout of one's own images, where that has more than twice as many categories.

  Args:
    root: the folder, or a file that lists images.

  Raises:
    UserError: there is nothing that is known; the error says where there is, if it is near.
  """
  if root.is_file() and root.suffix.lower() in ('.txt', '.csv'):
    return _of_lists()
  if not root.is_dir():
    raise UserError(f'There is no folder {root}{explain_missing_root(root)}.')
  if name := _recognise_folders(root):
    return name
  if hint := _near(root) or explain_archive(root):
    raise UserError(f'{root} is no data set that is known,{hint}.')
  if list_images_below(root)[0]:
    return _of_lists()
  raise UserError(
    f'{root} holds neither a data set that is known (memkd datasets list) nor an image.'
  )


def categories_of(name: str, root: Path) -> tuple[str, ...]:
  """The categories that a data set has, or those of one's own that are there.

  Args:
    name: name of the data set, a key of `DATASETS`.
    root: the data set's folder, or the file that lists its images.
  """
  dataset = DATASETS[name]
  if dataset.is_listed:
    return (image_list.category_of(root),)
  if dataset.list_categories is not None:
    return tuple(dataset.list_categories(root))
  return dataset.categories or ()


def are_there(dataset: Dataset, root: Path) -> list[str]:
  """The categories of a published data set that have a folder, or that its reader finds."""
  if dataset.list_categories is not None:
    return dataset.list_categories(root)
  return [name for name in dataset.categories or () if (root / name).is_dir()]


def _of_lists() -> str:
  """The data set that has no layout."""
  return next(name for name, dataset in DATASETS.items() if dataset.is_listed)


def _recognise_folders(root: Path) -> str | None:
  """The data set whose categories are in the root."""
  own, of_own = _recognise_own(root)
  known = {name: are_there(d, root) for name, d in DATASETS.items() if d.categories}
  candidates = {name: found for name, found in known.items() if found}

  def rank(name: str) -> tuple[int, int, float]:
    found = len(candidates[name])
    share = found / len(DATASETS[name].categories or ())
    # To read lists takes a while; where nothing else is like it, there is no need.
    certain = len(candidates) == 1 and share >= 0.5
    listed = found if certain else _count_listed(name, root)
    return listed, found, share

  ranks = {name: rank(name) for name in candidates}
  best_known = max(ranks, key=lambda name: ranks[name], default=None)
  if best_known is not None and (not own or 2 * ranks[best_known][0] >= of_own):
    return best_known
  return own


def _recognise_own(root: Path) -> tuple[str | None, int]:
  """The layout of one's own images that has most categories there, and their number."""
  best, number = None, 0
  for name, dataset in DATASETS.items():
    if dataset.list_categories is not None and not dataset.categories:
      try:
        found = len(dataset.list_categories(root))
      except UserError:  # two folders of a kind, for example, which the reader will name
        found = 1
      # Of those that fit, the last one asks for most.
      if found and found >= number:
        best, number = name, found
  return best, number


def _count_listed(name: str, root: Path) -> int:
  """The number of categories that may be a published data set's, as its reader finds them.

  An incomplete copy has fewer images than were published; what has more is something else.
  """
  dataset = DATASETS[name]

  def is_listed(category: str) -> bool:
    numbers = []
    for split in ('train', 'test'):
      try:
        with surveyed():
          number = len(dataset.list_samples(root, category, split))
      except (UserError, OSError):
        number = 0
      numbers.append((number, published(name, category).get(split, number)))
    return any(n for n, _ in numbers) and all(n <= most for n, most in numbers)

  return sum(map(is_listed, dataset.categories or ()))


def _near(root: Path) -> str:
  """What to say of a folder above or below that is a data set: ' but ...', or nothing."""
  whole = root.resolve()
  for folder in (whole.parent, *list_folders(root)):
    try:
      name = _recognise_folders(folder)
      is_above = folder == whole.parent
      if name and is_above and whole.name in categories_of(name, folder):
        return (
          f' but a category of one: memkd datasets check {folder} --categories={whole.name}'
        )
      if name and not is_above:
        return f' but {folder} is ({name}): memkd datasets check {folder}'
    except (UserError, OSError):  # of a folder that nobody asked about
      pass
  return ''
