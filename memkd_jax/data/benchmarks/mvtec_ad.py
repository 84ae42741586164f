"""MVTec AD (Bergmann et al., CVPR 2019): 15 categories in the folder layout."""

from memkd_jax.data import folder
from memkd_jax.data.sample import Dataset

CATEGORIES = (
  'bottle',
  'cable',
  'capsule',
  'carpet',
  'grid',
  'hazelnut',
  'leather',
  'metal_nut',
  'pill',
  'screw',
  'tile',
  'toothbrush',
  'transistor',
  'wood',
  'zipper',
)
DATASET = Dataset(
  CATEGORIES,
  'Get MVTec AD from https://www.mvtec.com/company/research/datasets/mvtec-ad',
  folder.LAYOUT,
  folder.list_published,
  config='mvtec',
)
