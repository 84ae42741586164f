"""MPDD (Jezek et al., ICUMT 2021): metal parts, 6 categories in the folder layout."""

CATEGORIES = (
  'bracket_black',
  'bracket_brown',
  'bracket_white',
  'connector',
  'metal_plate',
  'tubes',
)
WHERE = 'Get MPDD from https://github.com/stepanje/MPDD'
