"""Real-IAD (Wang et al., CVPR 2024): 30 objects, each part seen from five sides."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeGuard

from memkd_jax.data.benchmarks.listed_images import listed_images
from memkd_jax.data.listing import category_folder, note_anomalous_training
from memkd_jax.data.sample import GOOD, Dataset, Sample
from memkd_jax.data.survey import mention_known
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_json

CATEGORIES = (
  'audiojack',
  'bottle_cap',
  'button_battery',
  'end_cap',
  'eraser',
  'fire_hood',
  'mint',
  'mounts',
  'pcb',
  'phone_battery',
  'plastic_nut',
  'plastic_plug',
  'porcelain_doll',
  'regulator',
  'rolled_strip_base',
  'sim_card_set',
  'switch',
  'tape',
  'terminalblock',
  'toothbrush',
  'toy',
  'toy_brick',
  'transistor1',
  'u_block',
  'usb',
  'usb_adaptor',
  'vcpill',
  'wooden_beads',
  'woodstick',
  'zipper',
)
# The images come in several sizes. The publisher's experiments read those of 1024 pixels, so
# they come first, and the originals, of 2000 to 5000, last.
SIZES = ('realiad_1024', 'realiad_512', 'realiad_256', 'realiad_raw')
_SPLITS = 'realiad_jsons'
_NAMES = ('train', 'test')
LAYOUT = (
  f'{_SPLITS}/<category>.json, and {{{",".join(SIZES)}}}/<category>/OK/<object>/*.jpg and '
  'NG/<defect>/<object>/*.jpg with their masks, *.png'
)
_AGAIN = 'take the file that comes with Real-IAD'


class _Entry(NamedTuple):
  image: str
  mask: str | None
  defect: str


def list_categories(root: Path) -> list[str]:
  """All, where the folder holds images of some."""
  return list(CATEGORIES) if any((root / size).is_dir() for size in SIZES) else []


def list_samples(root: Path, category: str, split: str) -> list[Sample]:
  """Lists 'train' (normal images only) or 'test', in the order of the split file.

  Real-IAD labels each view: parts in NG/ have normal ones, where their defect is not seen.
  """
  folder, *others = _sizes(root, category)
  mention_known(*others)
  entries = _read_split(root, category)[split]
  if all(split == 'train' and entry.defect != GOOD for entry in entries):
    raise UserError(
      f'There are no images for split {split} in {_split_file(root, category)}; {_AGAIN}.'
    )
  return listed_images(
    split,
    [
      (
        Sample(entry.image, {'rgb': folder / entry.image}, None, entry.defect),
        None if entry.mask is None else folder / entry.mask,
      )
      for entry in entries
    ],
    lambda image: (
      f'{image}, which {_split_file(root, category)} lists, is missing; extract the whole '
      f'archive of {category}.'
    ),
  )


def notes(root: Path, category: str) -> list[str]:
  """Which size of the images is read, and what is left out."""
  size, *others = (folder.parent.name for folder in _sizes(root, category))
  beside = f', not those of {" and ".join(others)}' if others else ''
  defective = sum(entry.defect != GOOD for entry in _read_split(root, category)['train'])
  path = _split_file(root, category).relative_to(root)
  return [
    f'{category}: the images of {size} are read{beside}.',
    *note_anomalous_training(category, defective, str(path)),
  ]


def object_of(sample: Sample) -> str:
  """The folder of a part's five views: its number alone, S0001, is in OK/ and in each NG/."""
  return PurePosixPath(sample.id).parent.as_posix()


def folder_of(root: Path, category: str) -> Path:
  """The folder with the images of a category that are read, or are expected."""
  there = [root / size for size in SIZES if (root / size).is_dir()] or [root / SIZES[0]]
  found = (size / category for size in there if (size / category).is_dir())
  return next(found, there[0] / category)


def _sizes(root: Path, category: str) -> list[Path]:
  """The folders with images of a category, the one that is read first."""
  first = folder_of(root, category)
  folders = [root / size / category for size in SIZES]
  return [category_folder(first.parent, category, LAYOUT)] + [
    folder for folder in folders if folder.is_dir() and folder != first
  ]


def _split_file(root: Path, category: str) -> Path:
  """The split file, which is one level deeper where its archive got a folder of its own."""
  deeper = root / _SPLITS / _SPLITS / f'{category}.json'
  return deeper if deeper.is_file() else root / _SPLITS / f'{category}.json'


def _read_split(root: Path, category: str) -> dict[str, list[_Entry]]:
  path = _split_file(root, category)
  try:
    document = read_json(path)
    normal = _normal_class(document, category)
    splits = {name: list(_entries(document, name, category, normal)) for name in _NAMES}
    images = [entry.image for entries in splits.values() for entry in entries]
    if len(set(images)) < len(images):
      raise ValueError('it lists an image twice')
  except FileNotFoundError as error:
    raise UserError(
      f'There is no split file {path}; it comes with Real-IAD, expected layout: {LAYOUT}.'
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read ({error}); {_AGAIN}.') from error
  return splits


def _normal_class(document: Any, category: str) -> str:
  """What normal images are called; raises ValueError where the file is of something else."""
  meta = document.get('meta') if isinstance(document, dict) else None
  if not isinstance(meta, dict) or not all(isinstance(document.get(n), list) for n in _NAMES):
    raise ValueError('it has not meta, train and test')
  if meta.get('prefix') not in (category, f'{category}/'):
    raise ValueError(f'its meta.prefix is not {category}/')
  normal = meta.get('normal_class')
  if not isinstance(normal, str) or not normal.isidentifier():
    raise ValueError('its meta.normal_class is no name')
  return normal


def _entries(document: Any, split: str, category: str, normal: str) -> Iterator[_Entry]:
  """The entries of a split; raises ValueError where one is damaged."""
  for number, entry in enumerate(document[split], start=1):
    if not isinstance(entry, dict) or entry.get('category') != category:
      raise ValueError(f'entry {number} of {split} is none of {category}')
    kind, image, mask = (entry.get(n) for n in ('anomaly_class', 'image_path', 'mask_path'))
    if not isinstance(kind, str) or not kind.isidentifier() or kind == GOOD:
      raise ValueError(f'entry {number} of {split} has no anomaly_class')
    if not _is_below(image) or not (mask is None or _is_below(mask)):
      raise ValueError(f'entry {number} of {split} names no file of {category}')
    yield _Entry(image, mask, GOOD if kind == normal else kind)


def _is_below(path: Any) -> TypeGuard[str]:
  """Whether it is a file's path that cannot lead out of a folder."""
  if not isinstance(path, str) or not path.isprintable() or '\\' in path:
    return False
  parts = path.split('/')
  return len(parts) > 1 and not {'', '.', '..'} & set(parts)


DATASET = Dataset(
  CATEGORIES,
  'Get Real-IAD from https://realiad4ad.github.io/Real-IAD',
  LAYOUT,
  list_samples,
  notes=notes,
  list_categories=list_categories,
  object_of=object_of,
  folder_of=folder_of,
)
