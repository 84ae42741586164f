"""Eyecandies (Bonfiglioli et al., ACCV 2022), images, depth and normals: 10 categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from memkd_jax.data.framing import RGB
from memkd_jax.data.listing import category_folder, with_masks
from memkd_jax.data.modalities import IMAGE, eyecandies_files
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import INPUTLESS, UNKNOWN, refuse
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_text

CATEGORIES = (
  'CandyCane',
  'ChocolateCookie',
  'ChocolatePraline',
  'Confetto',
  'GummyBear',
  'HazelnutTruffle',
  'LicoriceSandwich',
  'Lollipop',
  'Marshmallow',
  'PeppermintCandy',
)
LAYOUT = (
  '<category>/{train,val,test_public}/data/<id>_image_0.png, <id>_mask.png, '
  '<id>_metadata.yaml, and <id>_depth.png, <id>_info_depth.yaml, <id>_normals.png'
)
_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test_public'}
_ANY = 'anomaly'
_MAX_METADATA = 2**16  # bytes; they have a hundred


def list_samples(
  root: Path, category: str, split: str, inputs: Sequence[str] = (RGB,)
) -> list[Sample]:
  """Lists 'train', 'validation' or 'test' (the public one); see `folder.list_samples`.

  Args:
    root: the data set's folder.
    category: the category's name, one of `CATEGORIES`.
    split: the split's name, 'train', 'validation' or 'test'.
    inputs: the pictures that are looked at, of `modalities.PICTURES`.
  """
  folder = category_folder(root, category, LAYOUT) / _FOLDERS[split] / 'data'
  images = sorted(folder.glob(f'*{IMAGE}'))
  if not images:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  pairs = []
  for image in images:
    number = image.name.removesuffix(IMAGE)
    # Only normal objects are trained on; there is no need to open a thousand files.
    defect, metadata = GOOD, folder / f'{number}_metadata.yaml'
    if split == 'test':
      try:
        defect = _read_defect(metadata)
      except UserError as error:
        refuse(UNKNOWN, metadata, str(error))
        continue
    files = {RGB: image} | eyecandies_files(image, inputs)
    for name, file in list(files.items()):
      if not file.is_file():
        refuse(
          INPUTLESS,
          file,
          f'There is no {file}, which belongs to {image.name}; extract it, or look at '
          'photographs alone with --config.data.inputs=rgb.',
        )
        del files[name]
    sample = Sample(f'{_FOLDERS[split]}/{image.name}', files, None, defect)
    pairs.append((sample, folder / f'{number}_mask.png'))
  return with_masks(pairs)


def _read_defect(path: Path) -> str:
  """The kinds of defect whose value is 1, or 'good' where there is none."""
  try:
    values = yaml.safe_load(read_text(path, _MAX_METADATA))
    present = _present_kinds(values)
  except FileNotFoundError as error:
    raise UserError(
      f'There is no {path}, which says whether its image is normal; extract the whole archive.'
    ) from error
  except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(f'{path} is not readable metadata ({reason}); extract it again.') from error
  kinds = [kind for kind in present if kind != _ANY]
  return '+'.join(kinds or present) or GOOD


def _present_kinds(values: Any) -> list[str]:
  """The names whose value is 1; raises ValueError where the values are not what they say."""
  if not isinstance(values, dict) or not values:
    raise ValueError('it lists no kinds of defect')
  for kind, value in values.items():
    if not isinstance(kind, str) or not kind.isidentifier():
      raise ValueError(f'{kind!r} is no name of a kind of defect')
    if not isinstance(value, int | float) or value not in (0, 1):
      raise ValueError(f'{kind} is neither 0 nor 1')
  present = sorted(kind for kind, value in values.items() if value)
  if present and not values.get(_ANY, 1):
    raise ValueError(f'{_ANY} is 0 but {present[0]} is 1')
  return present


DATASET = Dataset(
  CATEGORIES,
  'Get Eyecandies from https://eyecan-ai.github.io/eyecandies',
  LAYOUT,
  list_samples,
  options=('inputs',),
  has_validation=True,
)
