"""MVTec 3D-AD (Bergmann et al., VISAPP 2022), its RGB images only: 10 categories."""

from pathlib import Path

from memkd_jax.data.listing import category_folder, list_folders, list_images, with_masks
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.errors import UserError

CATEGORIES = (
  'bagel',
  'cable_gland',
  'carrot',
  'cookie',
  'dowel',
  'foam',
  'peach',
  'potato',
  'rope',
  'tire',
)
LAYOUT = '<category>/{train,validation,test}/<good or defect>/{rgb,gt}/*.png'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train', 'validation' or 'test'; see `folder.list_samples`."""
  folder = category_folder(root, category, LAYOUT) / split
  if not folder.is_dir():
    raise UserError(f'There is no folder {folder}; expected layout: {LAYOUT}.')
  pairs = [
    (
      Sample(f'{split}/{defect.name}/{image.name}', {'rgb': image}, None, defect.name),
      defect / 'gt' / f'{image.stem}.png',
    )
    for defect in list_folders(folder)
    for image in list_images(defect / 'rgb')
  ]
  if not pairs:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  return with_masks(pairs)


DATASET = Dataset(
  CATEGORIES,
  'Get MVTec 3D-AD from https://www.mvtec.com/company/research/datasets/mvtec-3d-ad',
  LAYOUT,
  list_samples,
)
