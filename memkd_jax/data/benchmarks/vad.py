"""VAD, the Valeo Anomaly Dataset (Baitieva et al., CVPR 2024): one part, without masks."""

from pathlib import Path

from memkd_jax.data.listing import (
  category_folder,
  list_folders,
  list_images,
  note_anomalous_training,
)
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.errors import UserError

CATEGORIES = ('vad',)
LAYOUT = 'vad/train/{good,bad}/*.png and vad/test/{good,bad,bad_unseen_defects}/*.png'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  whole = category_folder(root, category, LAYOUT)
  folder = whole / split
  kinds = list_folders(folder) if folder.is_dir() else []
  if split == 'train':
    kinds = [folder / GOOD]
  samples = [
    Sample(image.relative_to(whole).as_posix(), {'rgb': image}, None, kind.name)
    for kind in kinds
    for image in list_images(kind)
  ]
  if not samples:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return samples


def notes(root: Path, category: str) -> list[str]:
  """How many images are left out of the training, which is on normal ones only."""
  bad = Path(category, 'train', 'bad')
  return note_anomalous_training(category, len(list_images(root / bad)), str(bad))


DATASET = Dataset(
  CATEGORIES,
  'Get VAD from https://github.com/abc-125/vad',
  LAYOUT,
  list_samples,
  notes=notes,
)
