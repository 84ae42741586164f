"""VisA (Zou et al., ECCV 2022): 12 categories, split by its file 1cls.csv."""

import csv
import functools
import io
from pathlib import Path, PurePosixPath

from memkd_jax.data.listing import category_folder, with_masks
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import MISSING, refuse
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_text

CATEGORIES = (
  'candle',
  'capsules',
  'cashew',
  'chewinggum',
  'fryum',
  'macaroni1',
  'macaroni2',
  'pcb1',
  'pcb2',
  'pcb3',
  'pcb4',
  'pipe_fryum',
)
LAYOUT = (
  'split_csv/1cls.csv, <category>/Data/Images/{Normal,Anomaly}/*.JPG and '
  '<category>/Data/Masks/Anomaly/*.png'
)
_COLUMNS = ('object', 'split', 'label', 'image', 'mask')


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists a split in the order of the split file; see `folder.list_samples`."""
  folder = category_folder(root, category, LAYOUT)
  rows = [
    row for row in _read_split(root) if (row['object'], row['split']) == (category, split)
  ]
  if not rows:
    raise UserError(
      f'{_split_file(root)} lists no {split} image of {category}; take the file that comes '
      'with VisA.'
    )
  pairs = []
  for row in rows:
    image = root / row['image']
    if not image.is_file():
      refuse(
        MISSING,
        image,
        f'{image}, which {_split_file(root)} lists, is missing; extract the whole of VisA.',
      )
      continue
    defect = GOOD if row['label'] == 'normal' else 'anomaly'
    name = image.relative_to(folder).as_posix()
    mask = root / row['mask'] if row['mask'] else None
    pairs.append((Sample(name, {'rgb': image}, None, defect), mask))
  return with_masks(pairs)


def _split_file(root: Path) -> Path:
  return root / 'split_csv' / '1cls.csv'


def _read_split(root: Path) -> list[dict[str, str]]:
  path = _split_file(root)
  try:
    return _parse(path, read_text(path))
  except FileNotFoundError as error:
    raise UserError(
      f'There is no split file {path}; it comes with VisA, expected layout: {LAYOUT}.'
    ) from error
  except (OSError, ValueError, csv.Error) as error:
    raise UserError(
      f'{path} cannot be read ({error}); take the file that comes with VisA.'
    ) from error


# Of its ten thousand lines each split of each category needs a few.
@functools.lru_cache(maxsize=1)
def _parse(path: Path, text: str) -> list[dict[str, str]]:
  """The rows of a split file; raises UserError or csv.Error where it is none."""
  reader = csv.DictReader(io.StringIO(text, newline=''), strict=True)
  if missing := [c for c in _COLUMNS if c not in (reader.fieldnames or ())]:
    raise UserError(
      f'{path} has no column {", ".join(missing)}; take the file that comes with VisA.'
    )
  rows = list(reader)
  seen: set[str] = set()
  for number, row in enumerate(rows, start=2):
    if not _is_sound(row) or row['image'] in seen:
      raise UserError(f'{path}, line {number}, is damaged; take the file that comes with VisA.')
    seen.add(row['image'])
  return rows


def _is_sound(row: dict[str, str]) -> bool:
  """Whether a row is whole, says nothing unknown, and names files of its own category."""
  if None in row or None in row.values():
    return False
  files = [row['image'], *([row['mask']] if row['mask'] else [])]
  return (
    row['object'] in CATEGORIES
    and row['split'] in ('train', 'test')
    and row['label'] in ('normal', 'anomaly')
    and all(name.isprintable() and '..' not in name for name in files)
    and all(PurePosixPath(name).parts[0] == row['object'] for name in files)
  )


DATASET = Dataset(
  CATEGORIES,
  'Get VisA from https://github.com/amazon-science/spot-diff',
  LAYOUT,
  list_samples,
)
