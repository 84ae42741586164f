"""MVTec AD 2 (Heckler-Kram et al., 2025): 8 categories, a public and two private test sets."""

from pathlib import Path

from memkd_jax.data.listing import category_folder, list_folders, list_images, with_masks
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.errors import UserError

CATEGORIES = (
  'can',
  'fabric',
  'fruit_jelly',
  'rice',
  'sheet_metal',
  'vial',
  'wallplugs',
  'walnuts',
)
LAYOUT = (
  '<category>/{train,validation}/good/*.png, <category>/test_public/{good,bad}/*.png, '
  '<category>/test_public/ground_truth/bad/*_mask.png and '
  '<category>/{test_private,test_private_mixed}/*.png'
)
# Whose ground truth the benchmark's server keeps; the second was lit in other ways.
PRIVATE = ('test_private', 'test_private_mixed')
_FOLDERS = {'train': 'train', 'validation': 'validation', 'test': 'test_public'}
_TRUTH = 'ground_truth'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train', 'validation' or 'test', the public one; see `folder.list_samples`."""
  folder = category_folder(root, category, LAYOUT) / _FOLDERS[split]
  kinds = list_folders(folder) if folder.is_dir() else []
  pairs = [
    (
      Sample(f'{folder.name}/{kind.name}/{image.name}', {'rgb': image}, None, kind.name),
      folder / _TRUTH / kind.name / f'{image.stem}_mask.png',
    )
    for kind in kinds
    if kind.name != _TRUTH
    for image in list_images(kind)
  ]
  if not pairs:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return with_masks(pairs)


def list_private(root: Path, category: str, split: str) -> list[Path]:
  """The images of a private test set, sorted by name.

  Args:
    root: the data set's folder.
    category: the category's name, one of `CATEGORIES`.
    split: the split's name, one of `PRIVATE`.

  Raises:
    UserError: there are none.
  """
  folder = category_folder(root, category, LAYOUT) / split
  images = list_images(folder)
  if not images:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return images


def _list_unlabelled(root: Path, category: str) -> list[Path]:
  return [image for split in PRIVATE for image in list_images(root / category / split)]


DATASET = Dataset(
  CATEGORIES,
  'Get MVTec AD 2 from https://www.mvtec.com/company/research/datasets/mvtec-ad-2',
  LAYOUT,
  list_samples,
  has_validation=True,
  three_sigma=True,
  unlabelled=_list_unlabelled,
)
