"""MPDD (Jezek et al., ICUMT 2021): metal parts, 6 categories in the folder layout."""

from memkd_jax.data import folder
from memkd_jax.data.sample import Dataset

CATEGORIES = (
  'bracket_black',
  'bracket_brown',
  'bracket_white',
  'connector',
  'metal_plate',
  'tubes',
)
DATASET = Dataset(
  CATEGORIES,
  'Get MPDD from https://github.com/stepanje/MPDD',
  folder.LAYOUT,
  folder.list_published,
)
