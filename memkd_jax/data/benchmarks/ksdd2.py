"""KolektorSDD2 (Bozic et al., Computers in Industry 2021): one surface, labels as images."""

from pathlib import Path

from memkd_jax.data.benchmarks.label_images import images_among, label_images
from memkd_jax.data.listing import (
  LeftOut,
  describe_left_out,
  list_images,
  note_anomalous_training,
)
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.data.survey import mention_left_out
from memkd_jax.errors import UserError

CATEGORIES = ('ksdd2',)
LAYOUT = '{train,test}/<id>.png and {train,test}/<id>_GT.png'
_LABEL = '_GT'
_SPLITS = ('train', 'test')


def list_categories(root: Path) -> list[str]:
  """The one category, where the folder holds images with labels."""
  files = [file for split in _SPLITS for file in list_images(root / split)]
  return list(CATEGORIES) if any(file.stem.endswith(_LABEL) for file in files) else []


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  samples, _ = _read(root, split)
  if split == 'train':
    mention_left_out(sample for sample in samples if sample.label)
    samples = [sample for sample in samples if not sample.label]
  if not samples:
    raise UserError(
      f'There are no images in {root / split} with their <id>{_LABEL}.png beside them; '
      f'expected layout: {LAYOUT}.'
    )
  return samples


def notes(root: Path, category: str) -> list[str]:
  """What is left out: defective training images, and images without a label."""
  train, unknown = _read(root, 'train')
  sentences = note_anomalous_training(category, sum(s.label for s in train), 'train')
  unknown += _read(root, 'test')[1]
  return [*sentences, *([f'{category}: {describe_left_out(unknown)}'] if unknown else [])]


def _read(root: Path, split: str) -> tuple[list[Sample], list[LeftOut]]:
  """All images of a split, and those without a label."""
  return label_images(
    images_among(list_images(root / split), _LABEL),
    lambda image: image.with_name(f'{image.stem}{_LABEL}.png'),
    lambda image: f'{split}/{image.name}',
  )


DATASET = Dataset(
  CATEGORIES,
  'Get KolektorSDD2 from https://www.vicos.si/resources/kolektorsdd2',
  LAYOUT,
  list_samples,
  notes=notes,
  list_categories=list_categories,
  folder_of=lambda root, category: root,
)
