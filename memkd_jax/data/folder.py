"""Lists the images of one's own data, in the layout of MVTec AD (protocol, data sets).

<category>/train/good/*
<category>/test/{good,<defect>}/*               (any of it, or no test/)
<category>/ground_truth/<defect>/<id>_mask.*    (for all, some or no defective images)

The usual synonyms of these names are recognised, and a config can give others; images may
lie in subfolders.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.data.listing import (
  category_folder,
  describe_left_out,
  list_folders,
  list_images,
  list_images_below,
)
from memkd_jax.data.sample import GOOD, NORMAL_NAMES, Dataset, Sample
from memkd_jax.data.survey import IMAGELESS, MASKLESS, MISPLACED, mention_normal_mask, refuse
from memkd_jax.errors import UserError

LAYOUT = (
  '<category>/train/good/* and, where there are any, <category>/test/{good,<defect>}/* and '
  '<category>/ground_truth/<defect>/<id>_mask.png'
)
AUTO = 'auto'

# Recognised in any mixture of upper and lower case. Two of a kind side by side are refused.
_USUAL = {
  'train_dir': ('train', 'training'),
  'test_dir': ('test', 'testing'),
  'normal_dir': NORMAL_NAMES,
  'mask_dir': ('ground_truth', 'groundtruth', 'gt', 'mask', 'masks'),
}


@dataclasses.dataclass(frozen=True)
class Category:
  """Where the images of one category lie.

  Attributes:
    root: folder of the category.
    train: folder of its normal training images.
    test: folder with a subfolder for each kind of test image; None where there is none.
    normal: the subfolder of `test` with normal images; None where there is none.
    masks: folder with the subfolders of defects as `test` has them; None where there is none.
    ignored: what lies beside `train` in its folder, which nothing reads.
  """

  root: Path
  train: Path
  test: Path | None
  normal: Path | None
  masks: Path | None
  ignored: Sequence[Path]


def list_categories(root: Path, **names: str) -> list[str]:
  """Names of the folders of `root` that hold training images, sorted.

  Args:
    root: the folder that holds the categories' folders.
    names: see `list_samples`.
  """
  return [p.name for p in list_folders(root) if _train_folder(p, names) is not None]


def list_samples(root: Path, category: str, split: str, **names: str) -> list[Sample]:
  """Lists a split, ordered by defect and file name.

  Args:
    root: the folder that holds the category's folder.
    category: name of the category.
    split: 'train' (normal images only) or 'test'.
    names: 'train_dir', 'test_dir', 'normal_dir' and 'mask_dir': what the folders are called;
      one that is left out or 'auto' has one of its usual names.

  Returns:
    The samples; at least one of split 'train'.

  Raises:
    UserError: the training images are missing, a mask has no image, or of two folders with
      usual names it is not clear which one is meant.
  """
  found = _find(root, category, names)
  if split == 'train':
    samples = [_sample(found, image, GOOD, None) for image in _images(found.train)]
    if not samples:
      raise UserError(f'There are no images in {found.train}; expected layout: {LAYOUT}.')
    return samples
  if found.test is None:
    return []
  for flat in list_images(found.test):
    refuse(
      MISPLACED,
      flat,
      f'{flat} lies in no subfolder of {found.test}, so it is neither normal nor of a kind '
      f'of defect; move it to {found.test / GOOD} or {found.test}/<defect>.',
    )
  if found.masks is not None:
    _check_masks(found.masks, found.test)
  return [s for folder in list_folders(found.test) for s in _list_kind(found, folder)]


def list_published(root: Path, category: str, split: str) -> list[Sample]:
  """Lists a split of a benchmark in this layout: of its masks all are there, or none.

  Args, and errors, are those of `list_samples`; one more is a mask that is missing.
  """
  samples = list_samples(root, category, split)
  missing = [s for s in samples if s.label and s.mask is None]
  if len(missing) == sum(s.label for s in samples):
    return samples
  for sample in missing:
    truth = root / category / 'ground_truth'
    expected = truth / sample.defect / f'{sample.stem}_mask.png'
    refuse(
      MASKLESS,
      expected,
      f'{sample.image} has no mask: {expected} is expected, because other images have theirs; '
      f'add it, or remove {truth} to do without pixel metrics.',
    )
  return samples


def notes(root: Path, category: str, **names: str) -> list[str]:
  """What a user should know of how the category's folder is read.

  Args:
    root: the folder that holds the category's folder.
    category: name of the category.
    names: see `list_samples`.

  Returns:
    Sentences: which names were recognised, and what is left out.
  """
  found = _find(root, category, names)
  sentences = []
  usual = (found.train.name, found.normal and found.normal.name) in ((GOOD, GOOD), (GOOD, None))
  if not usual or found.masks not in (None, found.root / 'ground_truth'):
    places = {'training images': found.train, 'normal test images': found.normal}
    places['masks'] = found.masks
    known = [f'{what} in {p.relative_to(root)}' for what, p in places.items() if p is not None]
    sentences.append(f'{category}: {", ".join(known)}.')
  if found.ignored:
    ignored = ', '.join(str(p.relative_to(root)) for p in found.ignored)
    sentences.append(f'{category}: {ignored} left out, beside the normal training images.')
  folders = [p for p in (found.train, found.test) if p is not None]
  left_out = [path for folder in folders for path in list_images_below(folder)[1]]
  if left_out:
    sentences.append(f'{category}: {describe_left_out(left_out)}')
  defective = [s for s in list_samples(root, category, 'test', **names) if s.label]
  without = [s for s in defective if s.mask is None]
  if without and len(without) < len(defective):
    sentences.append(
      f'{category}: {len(without)} of {len(defective)} defective images have no mask, and '
      f'count in no pixel metric (the first is {without[0].id}).'
    )
  return sentences


def find_folder(folder: Path, field: str, given: str) -> Path | None:
  """The subfolder that a field of `data` names.

  Args:
    folder: the folder in which the subfolder lies.
    field: name of the field, 'train_dir', 'test_dir', 'normal_dir' or 'mask_dir'.
    given: the field's value: a name, or 'auto' for one of the usual names.

  Returns:
    The subfolder, None where there is none.

  Raises:
    UserError: several have usual names.
  """
  if given != AUTO:
    return folder / given if (folder / given).is_dir() else None
  if not folder.is_dir():
    return None
  known = [p for p in list_folders(folder) if p.name.lower() in _USUAL[field]]
  if len(known) > 1:
    raise UserError(
      f'{folder} holds {" and ".join(p.name for p in known)}; say which one is meant with '
      f'--config.data.{field}={known[0].name}.'
    )
  return known[0] if known else None


def _find(root: Path, category: str, names: dict[str, str]) -> Category:
  folder = category_folder(root, category, LAYOUT)
  train = _train_folder(folder, names)
  if train is None:
    expected = folder / _name(names, 'train_dir', 'train') / _name(names, 'normal_dir', GOOD)
    raise UserError(f'There is no folder {expected}; expected layout: {LAYOUT}.')
  test = find_folder(folder, 'test_dir', names.get('test_dir', AUTO))
  normal = test and find_folder(test, 'normal_dir', names.get('normal_dir', AUTO))
  masks = find_folder(folder, 'mask_dir', names.get('mask_dir', AUTO))
  beside = () if train.parent == folder else list_folders(train.parent)
  ignored = tuple(p for p in beside if p != train)
  return Category(folder, train, test, normal, masks, ignored)


def _train_folder(folder: Path, names: dict[str, str]) -> Path | None:
  """The folder of normal training images; train/ itself where it holds images alone."""
  train = find_folder(folder, 'train_dir', names.get('train_dir', AUTO))
  if train is None:
    return None
  normal = find_folder(train, 'normal_dir', names.get('normal_dir', AUTO))
  flat = normal is None and not list_folders(train) and list_images(train)
  return train if flat else normal


def _name(names: dict[str, str], field: str, default: str) -> str:
  given = names.get(field, AUTO)
  return default if given == AUTO else given


def _images(folder: Path) -> list[Path]:
  return list_images_below(folder)[0]


def _list_kind(found: Category, folder: Path) -> list[Sample]:
  """The test images of one kind."""
  normal = folder == found.normal
  truth = None if found.masks is None else found.masks / folder.name
  masks = {_key(p, truth): p for p in _images(truth)} if truth and truth.is_dir() else {}
  images = _images(folder)
  keys = [_key(image, folder) for image in images]
  if normal:
    for image, key in zip(images, keys, strict=True):
      mention_normal_mask(_sample(found, image, GOOD, None).id, masks.get(key))
    masks = {}
  if masks and len(set(keys)) < len(keys):
    twice = next(image for image, key in zip(images, keys, strict=True) if keys.count(key) > 1)
    raise UserError(f'{twice} shares its mask with another image; rename one of them.')
  defect = GOOD if normal else folder.name
  return [
    _sample(found, image, defect, masks.get(key))
    for image, key in zip(images, keys, strict=True)
  ]


def _sample(found: Category, image: Path, defect: str, mask: Path | None) -> Sample:
  return Sample(image.relative_to(found.root).as_posix(), {'rgb': image}, mask, defect)


def _check_masks(truth: Path, test: Path) -> None:
  """Every mask must have its image."""
  for folder in list_folders(truth):
    images = test / folder.name
    keys = {_key(p, images) for p in _images(images)}
    for mask in _images(folder):
      if _key(mask, folder) not in keys:
        refuse(
          IMAGELESS,
          mask,
          f'{mask} has no image: {images / _key(mask, folder)}.* is expected; '
          'add the image or remove the mask.',
        )


def _key(path: Path, folder: Path) -> str:
  """What an image and its mask have in common."""
  return path.relative_to(folder).with_suffix('').as_posix().removesuffix('_mask')


DATASET = Dataset(
  None,
  'Put your own images there',
  LAYOUT,
  list_samples,
  options=tuple(_USUAL),
  notes=notes,
  list_categories=list_categories,
)
