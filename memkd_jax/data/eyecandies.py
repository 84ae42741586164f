"""Eyecandies (Bonfiglioli et al., ACCV 2022), its RGB images only: 10 categories."""

from pathlib import Path

import yaml

from memkd_jax.data.layout import category_folder
from memkd_jax.data.masks import with_masks
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.errors import UserError

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
WHERE = 'Get Eyecandies from https://eyecan-ai.github.io/eyecandies'
LAYOUT = (
  '<category>/{train,val,test_public}/data/<id>_image_0.png, <id>_mask.png and '
  '<id>_metadata.yaml'
)
_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test_public'}
# Each object is photographed under six lights; the first is taken.
_IMAGE = '_image_0.png'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train', 'validation' or 'test' (the public one); see `folder.list_samples`."""
  folder = category_folder(root, category, LAYOUT) / _FOLDERS[split] / 'data'
  images = sorted(folder.glob(f'*{_IMAGE}'))
  if not images:
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  pairs = []
  for image in images:
    number = image.name.removesuffix(_IMAGE)
    # Only normal objects are trained on; there is no need to open a thousand files.
    defect = _read_defect(folder / f'{number}_metadata.yaml') if split == 'test' else GOOD
    sample = Sample(f'{_FOLDERS[split]}/{image.name}', image, None, defect)
    pairs.append((sample, folder / f'{number}_mask.png'))
  return with_masks(pairs)


def _read_defect(path: Path) -> str:
  """The kinds of defect whose value is 1, or 'good' where there is none."""
  try:
    values = yaml.safe_load(path.read_text(encoding='utf-8'))
    present = sorted(kind for kind, value in values.items() if int(value) == 1)
  except FileNotFoundError as error:
    raise UserError(
      f'There is no {path}, which says whether its image is normal; extract the whole archive.'
    ) from error
  except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f'{path} is not readable metadata ({reason}); extract it again.') from error
  kinds = [kind for kind in present if kind != 'anomaly']
  return '+'.join(kinds or present) or GOOD
