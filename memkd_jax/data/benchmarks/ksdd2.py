"""KolektorSDD2 (Bozic et al., Computers in Industry 2021): one surface, labels as images."""

from pathlib import Path

from memkd_jax.data.benchmarks.label_images import label_images
from memkd_jax.data.listing import (
  LeftOut,
  describe_left_out,
  list_images,
  note_anomalous_training,
)
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.errors import UserError

CATEGORIES = ('ksdd2',)
LAYOUT = '{train,test}/<id>.png and {train,test}/<id>_GT.png'
_LABEL = '_GT'


def list_categories(root: Path) -> list[str]:
  """The one category, where the folder holds the training images."""
  return list(CATEGORIES) if list_images(root / 'train') else []


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  samples, _ = _read(root, split)
  if split == 'train':
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
  images = [p for p in list_images(root / split) if not p.stem.endswith(_LABEL)]
  return label_images(
    images,
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
)
