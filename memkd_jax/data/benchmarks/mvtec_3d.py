"""MVTec 3D-AD (Bergmann et al., VISAPP 2022), images and point clouds: 10 categories."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.data.framing import RGB
from memkd_jax.data.listing import category_folder, list_folders, list_images, with_masks
from memkd_jax.data.modalities import XYZ
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.data.survey import INPUTLESS, refuse
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
LAYOUT = '<category>/{train,validation,test}/<good or defect>/{rgb,gt}/*.png and xyz/*.tiff'


def list_samples(
  root: Path, category: str, split: str, inputs: Sequence[str] = (RGB,)
) -> list[Sample]:
  """Lists 'train', 'validation' or 'test'; see `folder.list_samples`.

  Args:
    root: the data set's folder.
    category: the category's name, one of `CATEGORIES`.
    split: the split's name, 'train', 'validation' or 'test'.
    inputs: the pictures that are looked at, of `modalities.PICTURES`.
  """
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
  samples = with_masks(pairs)
  return samples if tuple(inputs) == (RGB,) else [_with_cloud(s, folder) for s in samples]


def _with_cloud(sample: Sample, split: Path) -> Sample:
  """A sample with the point cloud that belongs to its image."""
  cloud = split / sample.defect / 'xyz' / f'{sample.stem}.tiff'
  if not cloud.is_file():
    refuse(
      INPUTLESS,
      cloud,
      f'There is no point cloud {cloud}, which belongs to {sample.image}; extract it, or look '
      'at the photographs alone with --config.data.inputs=rgb.',
    )
    return sample
  return dataclasses.replace(sample, inputs={**sample.inputs, XYZ: cloud})


DATASET = Dataset(
  CATEGORIES,
  'Get MVTec 3D-AD from https://www.mvtec.com/company/research/datasets/mvtec-3d-ad',
  LAYOUT,
  list_samples,
  options=('inputs',),
  has_validation=True,
)
