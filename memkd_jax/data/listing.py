"""Finds a category below the root that a user named, or says why it is not there."""

from pathlib import Path

from memkd_jax.data.sample import GOOD
from memkd_jax.errors import UserError

_ARCHIVES = ('.tar', '.tgz', '.gz', '.xz', '.bz2', '.zip', '.7z')


def category_folder(root: Path, category: str, layout: str) -> Path:
  """The folder of a category.

  Args:
    root: the data set's folder.
    category: name of the category.
    layout: the expected layout, for errors.

  Raises:
    UserError: it is not there; names the place where it is, or the archive in
      which it may be, where there is one.
  """
  folder = root / category
  if folder.is_dir():
    return folder
  raise UserError(
    f'There is no folder {folder}{_hint(root, category)}; expected layout: {layout}.'
  )


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
