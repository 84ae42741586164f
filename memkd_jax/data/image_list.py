"""Lists images without a layout: a folder of good ones, or files that a table names.

FOLDER      all images in it and below it are good
LIST.txt    a path a line, all good; what begins with # is a comment
TABLE.csv   a column `path`, and perhaps `label`, `mask` and `split`

Paths are relative to the folder of the list. The label is good (or ok, normal, 0) or the kind
of defect (or bad, 1); without one an image is good. The split is train or test; without one,
good images are for training and others for the test.
"""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from memkd_jax.data.listing import describe_left_out, list_folders, list_images_below
from memkd_jax.data.sample import GOOD, NORMAL_NAMES, Dataset, Sample
from memkd_jax.errors import UserError
from memkd_jax.files.reading import open_regular

LAYOUT = 'a folder of good images, a text file with a path a line, or a CSV with a column path'
_SPLITS = ('train', 'test')
_COLUMNS = ('path', 'label', 'mask', 'split')
_NORMAL = ('', '0', *NORMAL_NAMES)
_ANOMALOUS = ('1', 'anomalous', 'anomaly', 'bad', 'defect', 'defective', 'ko', 'ng')
_DEFECTIVE = 'defective'
_TRAIN = ('train', 'training')
# Folders that are not likely to hold good images: somebody gives one level too many.
_OTHER = ('test', 'testing', 'ground_truth', 'mask', 'masks', *_ANOMALOUS)
_NAMED = 10  # files in an error
_MAX_BYTES = 2**28  # of a list: some million lines


class _Row(NamedTuple):
  """A line of a list: paths that are absolute, the defect, and the split."""

  path: Path
  defect: str
  mask: Path | None
  split: str


def category_of(root: Path) -> str:
  """The category's name: that of the folder or file, without a suffix.

  A folder that is called after what it holds, gravel/train/good, has the name above it.
  """
  absolute = Path(os.path.abspath(root))
  if not absolute.is_dir():
    return absolute.stem
  names = [name for name in absolute.parts[1:] if name.lower() not in (*NORMAL_NAMES, *_TRAIN)]
  return names[-1] if names else 'images'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists a split, in the order of the list, or by name.

  Args:
    root: the folder, or the file that lists the images.
    category: name of the category; not looked at, as there is one alone.
    split: the split's name, 'train' or 'test'.

  Returns:
    The samples; at least one of split 'train'.

  Raises:
    UserError: there are no images for training, a file is missing or listed twice, or the
      list cannot be read.
  """
  del category
  rows = [row for row in _read(root) if row.split == split]
  if not rows and split == 'train':
    raise UserError(f'{root} names no good image to learn from; expected is {LAYOUT}.')
  base = root if root.is_dir() else root.parent
  samples: dict[str, Sample] = {}
  for row in rows:
    inside = os.path.relpath(row.path, base).replace(os.sep, '/')
    parts = [part for part in PurePosixPath(inside).parts if part != '..']
    name = '/'.join([split, row.defect, *parts])
    if name in samples:
      raise UserError(f'{root} names {row.path} twice; remove one of the two.')
    samples[name] = Sample(name, {'rgb': row.path}, row.mask, row.defect)
  return list(samples.values())


def notes(root: Path, category: str) -> list[str]:
  """See `folder.notes`."""
  if not root.is_dir():
    return []
  left_out = list_images_below(root)[1]
  return [f'{category}: {describe_left_out(left_out)}'] if left_out else []


def _read(root: Path) -> list[_Row]:
  if root.is_dir():
    others = [p.name for p in list_folders(root) if p.name.lower() in _OTHER]
    if others:
      raise UserError(
        f'{root} holds {", ".join(others)}, and all images of a folder of good ones would be '
        'learned from; give the folder of the good images alone, as --good=FOLDER.'
      )
    return [_Row(path, GOOD, None, 'train') for path in list_images_below(root)[0]]
  readers: dict[str, Callable[[Path, str], Iterator[_Row]]] = {
    '.txt': _read_lines,
    '.csv': _read_table,
  }
  reader = readers.get(root.suffix.lower())
  if reader is None:
    raise UserError(f'{root} is no folder and no .txt or .csv file; give {LAYOUT}.')
  with open_regular(root) as stream:
    content = stream.read(_MAX_BYTES + 1)
  if len(content) > _MAX_BYTES:
    raise UserError(f'{root} is larger than {_MAX_BYTES:,} bytes; split it.')
  try:
    rows = list(reader(root, content.decode('utf-8-sig')))
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f'{root} is not a list of images in UTF-8 ({error}).') from error
  files = [p for row in rows for p in (row.path, row.mask) if p is not None]
  missing = [str(p) for p in files if not p.is_file()]
  if missing:
    more = f' and {len(missing) - _NAMED} more' if len(missing) > _NAMED else ''
    raise UserError(
      f'{root} names files that are not there: {", ".join(missing[:_NAMED])}{more}; paths are '
      f'relative to {root.parent}.'
    )
  return rows


def _read_lines(root: Path, text: str) -> Iterator[_Row]:
  for line in text.splitlines():
    name = line.strip()
    if name and not name.startswith('#'):
      yield _Row(_path(root, name), GOOD, None, 'train')


def _read_table(root: Path, text: str) -> Iterator[_Row]:
  first = text.partition('\n')[0]
  delimiter = max(',;\t', key=first.count)  # semicolons where a comma is the decimal point
  lines = csv.reader(text.splitlines(), delimiter=delimiter)
  header = [name.strip().lower() for name in next(lines, [])]
  if 'path' not in header or (repeated := {n for n in header if header.count(n) > 1}):
    problem = f'{", ".join(repeated)} twice' if 'path' in header else 'no column path'
    raise UserError(
      f'{root} has {problem} in its first line; the columns are {", ".join(_COLUMNS)}.'
    )
  for number, cells in enumerate(lines, start=2):
    row = dict(zip(header, map(str.strip, cells), strict=False))
    if not any(row.values()):
      continue
    label, split = row.get('label', ''), row.get('split', '').lower()
    if label.lower() in _NORMAL:
      defect = GOOD
    else:
      defect = _DEFECTIVE if label.lower() in _ANOMALOUS else label
    split = split or ('train' if defect == GOOD else 'test')
    if split not in _SPLITS or not row['path'] or not _is_name(defect):
      raise UserError(
        f'{root}, line {number}: {row} needs a path, a label without slashes, and train or '
        'test as its split where it has one.'
      )
    mask = _path(root, row['mask']) if row.get('mask') and defect != GOOD else None
    yield _Row(_path(root, row['path']), defect, mask, split)


def _is_name(label: str) -> bool:
  return label.isprintable() and not set(label) & set('/\\') and label not in ('.', '..')


def _path(root: Path, name: str) -> Path:
  return root.parent / Path(name.replace('\\', '/') if os.sep == '/' else name).expanduser()


DATASET = Dataset(
  None, 'Put good images there', LAYOUT, list_samples, notes=notes, is_listed=True
)
