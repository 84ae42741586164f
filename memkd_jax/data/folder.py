"""Lists the images of one's own data, in the layout of MVTec AD (protocol, data sets).

<category>/train/good/*
<category>/test/{good,<defect>}/*
<category>/ground_truth/<defect>/<id>_mask.*    (all of it, or no ground_truth/)
"""

from pathlib import Path

from memkd_jax.data.listing import category_folder, list_folders, list_images
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.errors import UserError

LAYOUT = (
  '<category>/train/good/*, <category>/test/{good,<defect>}/* and, where there are '
  'masks, <category>/ground_truth/<defect>/<id>_mask.png'
)


def list_categories(root: Path) -> list[str]:
  """Names of the folders of `root` that hold train/good, sorted."""
  return [p.name for p in list_folders(root) if (p / 'train' / GOOD).is_dir()]


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists a split, ordered by defect and file name.

  Args:
    root: the folder that holds the category's folder.
    category: name of the category.
    split: 'train' (normal images only) or 'test'.

  Returns:
    At least one sample.

  Raises:
    UserError: a folder is missing or empty, or images and masks do not pair up.
  """
  folder = category_folder(root, category, LAYOUT)
  if split == 'train':
    samples = _list_defect(folder, 'train', GOOD, None)
  else:
    truth = folder / 'ground_truth'
    test = folder / 'test'
    if not test.is_dir():
      raise UserError(f'There is no folder {test}; expected layout: {LAYOUT}.')
    defects = [p.name for p in list_folders(test)]
    has_truth = truth.is_dir()
    if has_truth:
      _check_masks(truth, test)
    samples = [
      sample
      for defect in defects
      for sample in _list_defect(folder, 'test', defect, truth if has_truth else None)
    ]
  if not samples:
    where = folder / 'train' / GOOD if split == 'train' else folder / 'test'
    raise UserError(f'There are no images in {where}; expected layout: {LAYOUT}.')
  return samples


def _list_defect(folder: Path, split: str, defect: str, truth: Path | None) -> list[Sample]:
  masks = {}
  if truth is not None and defect != GOOD:
    masks = {_stem_of_mask(p): p for p in list_images(truth / defect)}
  samples = []
  for image in list_images(folder / split / defect):
    mask = masks.get(image.stem)
    if truth is not None and defect != GOOD and mask is None:
      raise UserError(
        f'{image} has no mask: {truth / defect / image.stem}_mask.png is expected, '
        f'because {truth} exists; add it, or remove {truth} to do without pixel metrics.'
      )
    samples.append(Sample(f'{split}/{defect}/{image.name}', {'rgb': image}, mask, defect))
  stems = [s.stem for s in samples]
  if masks and len(set(stems)) < len(stems):
    twice = next(s for s in samples if stems.count(s.stem) > 1)
    raise UserError(f'{twice.image} shares its mask with another image; rename one of them.')
  return samples


def _check_masks(truth: Path, test: Path) -> None:
  """Every mask must have its image."""
  for folder in list_folders(truth):
    stems = {p.stem for p in list_images(test / folder.name)}
    for mask in list_images(folder):
      if _stem_of_mask(mask) not in stems:
        raise UserError(
          f'{mask} has no image: {test / folder.name / _stem_of_mask(mask)}.* is expected; '
          'add the image or remove the mask.'
        )


def _stem_of_mask(mask: Path) -> str:
  return mask.stem.removesuffix('_mask')


DATASET = Dataset(None, 'Put your own images there', LAYOUT, list_samples)
