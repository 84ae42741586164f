"""MVTec AD (Bergmann et al., CVPR 2019): 15 categories in the folder layout."""

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
WHERE = 'Get MVTec AD from https://www.mvtec.com/company/research/datasets/mvtec-ad'
