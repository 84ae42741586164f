"""DAGM 2007 (Wieler et al.): ten synthetic textures, defects outlined by ellipses."""

from pathlib import Path

from memkd_jax.data.benchmarks.listed_images import listed_images
from memkd_jax.data.listing import category_folder, note_anomalous_training
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import mention_known
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_text

CATEGORIES = tuple(f'Class{i}' for i in range(1, 11))
LAYOUT = (
  '<category>/{Train,Test}/<id>.PNG, Label/Labels.txt beside them, and a mask '
  'Label/<id>_label.PNG for each defect'
)
_FOLDERS = {'train': 'Train', 'test': 'Test'}
_DEFECT = 'defect'
_MAX_LABELS = 2**20  # bytes; they have some ten thousand
_AGAIN = 'extract the archive again'


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test'; see `folder.list_samples`."""
  folder = _folder(root, category, split)
  labels = folder / 'Label' / 'Labels.txt'
  rows = _read_labels(labels)
  mention_known(labels)
  if all(split == 'train' and defective for _, defective in rows):
    raise UserError(f'There are no images in {folder}; expected layout: {LAYOUT}.')
  entries = [
    (
      Sample(
        f'{folder.name}/{name}', {'rgb': folder / name}, None, _DEFECT if defective else GOOD
      ),
      folder / 'Label' / f'{Path(name).stem}_label.PNG',
    )
    for name, defective in rows
  ]
  return listed_images(
    split,
    entries,
    lambda image: (
      f'There is no image {image}, which Label/Labels.txt lists; {_AGAIN}, expected layout: '
      f'{LAYOUT}.'
    ),
  )


def notes(root: Path, category: str) -> list[str]:
  """How many images are left out of the training, which is on normal ones only."""
  rows = _read_labels(_folder(root, category, 'train') / 'Label' / 'Labels.txt')
  defective = sum(defective for _, defective in rows)
  return note_anomalous_training(category, defective, f'{category}/{_FOLDERS["train"]}')


def _folder(root: Path, category: str, split: str) -> Path:
  """Train or Test, which is one level deeper where each archive got a folder of its own."""
  folder = category_folder(root, category, LAYOUT)
  deeper = folder / category / _FOLDERS[split]
  return deeper if deeper.is_dir() else folder / _FOLDERS[split]


def _read_labels(path: Path) -> list[tuple[str, bool]]:
  """Names of images, and whether they are defective.

  The first line is the number of the class alone. Each further one has, separated by tabs, a
  number, 0 or 1, the image, and two cells on the label image, which are not looked at.
  """
  try:
    lines = read_text(path, _MAX_LABELS).splitlines()
  except FileNotFoundError as error:
    raise UserError(
      f'There is no {path}, which says what is defective; {_AGAIN}, expected layout: {LAYOUT}.'
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error}); {_AGAIN}.') from error
  rows: dict[str, bool] = {}
  for number, line in enumerate(lines, start=1):
    cells = line.split('\t')
    if not line.strip() or (number == 1 and len(cells) == 1):
      continue
    if len(cells) < 3 or cells[1] not in ('0', '1') or not _is_name(cells[2]):
      raise UserError(f'{path}, line {number}, is damaged; {_AGAIN}.')
    if cells[2] in rows:
      raise UserError(f'{path}, line {number}, repeats {cells[2]}; {_AGAIN}.')
    rows[cells[2]] = cells[1] == '1'
  return list(rows.items())


def _is_name(cell: str) -> bool:
  return cell.isprintable() and cell == Path(cell).name and cell not in ('', '..')


DATASET = Dataset(
  CATEGORIES,
  'Get DAGM 2007 from https://doi.org/10.5281/zenodo.8086136',
  LAYOUT,
  list_samples,
  notes=notes,
)
