"""BTAD (Mishra et al., ISIE 2021): three industrial products."""

from pathlib import Path

from memkd_jax.data.listing import category_folder, list_folders, list_images, with_masks
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.errors import UserError

CATEGORIES = ('01', '02', '03')
LAYOUT = (
  '<category>/train/ok/*, <category>/test/{ok,ko}/* and <category>/ground_truth/ko/*, images '
  'and masks as .bmp or .png'
)
_NORMAL = 'ok'
# Images of 01 and 03 are BMP, those of 02 PNG; masks are PNG but for those of 03. Copies in
# which all are PNG go round, so either is taken.
_MASKS = ('.png', '.bmp')


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  whole = category_folder(root, category, LAYOUT)
  folder = whole / split
  kinds = [folder / _NORMAL] if split == 'train' else _folders(folder)
  pairs = []
  for kind in kinds:
    defect = GOOD if kind.name == _NORMAL else kind.name
    for image in list_images(kind):
      name = image.relative_to(whole).as_posix()
      sample = Sample(name, {'rgb': image}, None, defect)
      pairs.append((sample, _mask_of(image, whole / 'ground_truth' / kind.name, category)))
  if not pairs:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return with_masks(pairs)


def _folders(folder: Path) -> list[Path]:
  return list_folders(folder) if folder.is_dir() else []


def _mask_of(image: Path, folder: Path, category: str) -> Path:
  """The file that the mask of an image is in, or is expected in."""
  files = [folder / f'{image.stem}{suffix}' for suffix in _MASKS]
  expected = files[1] if category == '03' else files[0]
  return next((file for file in files if file.is_file()), expected)


DATASET = Dataset(
  CATEGORIES,
  'Get BTAD from https://avires.dimi.uniud.it/papers/btad/btad.zip',
  LAYOUT,
  list_samples,
)
