"""VAD, the Valeo Anomaly Dataset (Baitieva et al., CVPR 2024): one part, without masks."""

from pathlib import Path

from memkd_jax.data.listing import (
  category_folder,
  list_folders,
  list_images,
  note_anomalous_training,
)
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import mention_left_out
from memkd_jax.errors import UserError

CATEGORIES = ('vad',)
LAYOUT = 'vad/train/{good,bad}/*.png and vad/test/{good,bad,bad_unseen_defects}/*.png'
_BAD = 'bad'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  whole = category_folder(root, category, LAYOUT)
  folder = whole / split
  kinds = list_folders(folder) if folder.is_dir() else []
  if split == 'train':
    kinds = [folder / GOOD]
    mention_left_out(_list_kind(whole, folder / _BAD))
  samples = [sample for kind in kinds for sample in _list_kind(whole, kind)]
  if not samples:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return samples


def notes(root: Path, category: str) -> list[str]:
  """How many images are left out of the training, which is on normal ones only."""
  bad = Path(category, 'train', _BAD)
  return note_anomalous_training(category, len(list_images(root / bad)), str(bad))


def _list_kind(whole: Path, kind: Path) -> list[Sample]:
  return [
    Sample(image.relative_to(whole).as_posix(), {'rgb': image}, None, kind.name)
    for image in list_images(kind)
  ]


DATASET = Dataset(
  CATEGORIES,
  'Get VAD from https://github.com/abc-125/vad',
  LAYOUT,
  list_samples,
  notes=notes,
)
