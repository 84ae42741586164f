"""What readers share: they find a category, its images and masks, or say what is wrong."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from memkd_jax.data.decoding import suffixes
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.errors import UserError

_ARCHIVES = ('.tar', '.tgz', '.gz', '.xz', '.bz2', '.zip', '.7z')


def category_folder(root: Path, category: str, layout: str) -> Path:
  """The folder of a category.

  Args:
    root: the data set's folder.
    category: name of the category.
    layout: the expected layout, for errors.

  Raises:
    UserError: it is not there; the error names the place where it is, or an archive in which
      it may be, where there is one.
  """
  folder = root / category
  if folder.is_dir():
    return folder
  raise UserError(
    f'There is no folder {folder}{_hint(root, category)}; expected layout: {layout}.'
  )


def list_folders(folder: Path) -> list[Path]:
  """The folders in a folder, sorted; hidden ones (.ipynb_checkpoints) are left out.

  Raises:
    UserError: a name cannot be printed.
  """
  return sorted(
    p
    for p in folder.iterdir()
    if p.is_dir() and not p.name.startswith('.') and _has_printable_name(p)
  )


def list_images(folder: Path) -> list[Path]:
  """The files that are images by their suffix, sorted; hidden ones are left out.

  Args:
    folder: the folder, which need not exist; its subfolders are not looked into.

  Raises:
    UserError: what has such a name is no file, or the name cannot be printed.
  """
  if not folder.is_dir():
    return []
  images = sorted(
    p
    for p in folder.iterdir()
    if p.suffix.lower() in suffixes() and not p.name.startswith('.') and _has_printable_name(p)
  )
  for image in images:
    if not image.is_file():  # or it would be left out without a word
      raise UserError(f'{image} is a folder, a broken link or a device; replace or remove it.')
  return images


def with_masks(pairs: Sequence[tuple[Sample, Path | None]]) -> list[Sample]:
  """Gives anomalous samples their masks (protocol, data to arrays).

  Args:
    pairs: samples without a mask, each with the file that its mask is expected in.

  Returns:
    The samples, the anomalous ones with their masks; without any where no mask is there.

  Raises:
    UserError: some anomalous images have a mask and others have none.
  """
  due = [mask for sample, mask in pairs if sample.label]
  found = [mask is not None and mask.is_file() for mask in due]
  if not any(found):
    return [sample for sample, _ in pairs]
  if not all(found):
    sample, mask = next(
      (s, m) for s, m in pairs if s.label and not (m is not None and m.is_file())
    )
    raise UserError(
      f'{sample.image} has no mask{f": {mask} is expected" if mask else ""}, because other '
      'images have theirs; add it, or remove all masks to do without pixel metrics.'
    )
  return [dataclasses.replace(s, mask=m) if s.label else s for s, m in pairs]


def explain_missing_root(root: Path) -> str:
  """What to say of a root that is no folder: ', but ...', or nothing."""
  if root.is_file():
    return f', but a file: {_extract(root)}' if _is_archive(root) else ', but a file'
  archives = _archives(root.parent)
  return f', but an archive beside it: {_extract(archives[0])}' if archives else ''


def explain_no_category(root: Path) -> str:
  """What to say of a root below which no folder holds train/good."""
  if (root / 'train' / GOOD).is_dir():
    return (
      f' but is one itself: pass --config.data.dir={root.parent} '
      f'--config.data.categories={root.name}'
    )
  if deeper := sorted(root.glob(f'*/*/train/{GOOD}')):
    return f' but one level deeper: pass --config.data.dir={deeper[0].parents[2]}'
  archives = _archives(root)
  return f' but an archive: {_extract(archives[0])}' if archives else ''


def _has_printable_name(path: Path) -> bool:
  """True; raises UserError where tables and pages could not show the name."""
  if not path.name.isprintable():
    raise UserError(f'{path} has a name that cannot be printed; rename it.')
  return True


def _hint(root: Path, category: str) -> str:
  if root.name == category:
    return f', for {root} is the category itself: pass --config.data.dir={root.parent}'
  if deeper := sorted(p.parent for p in root.glob(f'*/{category}') if p.is_dir()):
    return f' but one level deeper: pass --config.data.dir={deeper[0]}'
  archives = _archives(root)
  named = [p for p in archives if p.name.startswith(category)] or archives
  return f' but an archive: {_extract(named[0])}' if named else ''


def _archives(folder: Path) -> list[Path]:
  if not folder.is_dir():
    return []
  return sorted(p for p in folder.iterdir() if p.is_file() and _is_archive(p))


def _is_archive(path: Path) -> bool:
  return path.suffix.lower() in _ARCHIVES


def _extract(archive: Path) -> str:
  return f'extract {archive} first'
