"""KolektorSDD (Tabernik et al., JIM 2019): 50 commutators, tested in three folds by object."""

import re
from pathlib import Path

from memkd_jax.data.benchmarks.label_images import images_among, label_images
from memkd_jax.data.listing import (
  LeftOut,
  describe_left_out,
  list_folders,
  list_images,
  note_anomalous_training,
)
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.data.survey import mention_known, mention_left_out
from memkd_jax.errors import UserError

CATEGORIES = ('fold_0', 'fold_1', 'fold_2')
LAYOUT = 'kos01 to kos50, each with Part<i>.jpg and Part<i>_label.bmp'
_LABEL = '_label'
# The publisher speaks of 399 images of 50 objects with 8 each, and its own code of 2021 passes
# over this one.
_NOT_USED = 'kos21_Part7'


def list_categories(root: Path) -> list[str]:
  """The folds, where the folder holds objects."""
  return list(CATEGORIES) if _objects(root) else []


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`.

  The publisher's folds are pickles, which are never read: they may run anything. Here fold k
  tests the objects whose number leaves the remainder k when divided by 3, and learns from the
  normal images of the others, so that no object is on both sides.
  """
  samples, _ = _read(root, category, split)
  if split == 'train':
    mention_left_out(sample for sample in samples if sample.label)
    samples = [sample for sample in samples if not sample.label]
  if not samples:
    raise UserError(
      f'There are no images in {root} of which {category} can have a {split} split; expected '
      f'layout: {LAYOUT}.'
    )
  return samples


def notes(root: Path, category: str) -> list[str]:
  """How the fold is made, and what is left out."""
  train, unknown = _read(root, category, 'train')
  unknown += _read(root, category, 'test')[1]
  return [
    f'{category}: it tests the objects whose number leaves {CATEGORIES.index(category)} when '
    "divided by 3; this is not the publisher's fold of that number.",
    *note_anomalous_training(category, sum(s.label for s in train), 'of the other objects'),
    *([f'{category}: {describe_left_out(unknown)}'] if unknown else []),
  ]


def _objects(root: Path) -> list[Path]:
  """The folders of the objects, in the order of their numbers."""
  folders = [p for p in list_folders(root) if re.fullmatch(r'kos\d{1,4}', p.name)]
  return sorted(folders, key=_number)


def _number(folder: Path) -> int:
  return int(folder.name.removeprefix('kos'))


def _read(root: Path, category: str, split: str) -> tuple[list[Sample], list[LeftOut]]:
  """All images of a fold's objects, and those without a label."""
  fold, tests = CATEGORIES.index(category), split == 'test'
  images = [
    image
    for folder in _objects(root)
    if (_number(folder) % len(CATEGORIES) == fold) == tests
    for image in images_among(list_images(folder), _LABEL)
  ]
  for image in images:
    if _is_passed_over(image):
      mention_known(image, _label_of(image))
  # Named as the publisher's code does: the names of files alone are those of each object.
  return label_images(
    [image for image in images if not _is_passed_over(image)],
    _label_of,
    lambda image: f'{image.parent.name}_{image.name}',
  )


def _is_passed_over(image: Path) -> bool:
  return f'{image.parent.name}_{image.stem}' == _NOT_USED


def _label_of(image: Path) -> Path:
  return image.with_name(f'{image.stem}{_LABEL}.bmp')


DATASET = Dataset(
  CATEGORIES,
  'Get KolektorSDD from https://www.vicos.si/resources/kolektorsdd',
  LAYOUT,
  list_samples,
  notes=notes,
  list_categories=list_categories,
  folder_of=lambda root, category: root,
)
