"""What readers share: they find a category, its images and masks, or say what is wrong."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from memkd_jax.data.decoding import suffixes
from memkd_jax.data.sample import Sample
from memkd_jax.data.survey import MASKLESS, mention_normal_mask, refuse
from memkd_jax.errors import UserError, explain
from memkd_jax.wording import counted

# What `predict` writes: its rows, by which its folder is known, and its pictures beside them.
SCORES = ('scores.csv', 'scores.partial.csv')
PICTURES = ('heatmaps', 'maps', 'masks')
REGIONS = ('regions.csv', 'regions.partial.csv')
COCO = 'regions.coco.json'
_WRITTEN = (*SCORES, *PICTURES, *REGIONS, COCO)
SCORES_BEGIN = 'path,score,'  # the first line of its rows

_ARCHIVES = ('.tar', '.tgz', '.gz', '.xz', '.bz2', '.zip', '.7z')
_NAMED = 3  # paths of each kind that `describe_left_out` repeats


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """What a listing does not read.

  Attributes:
    path: the file or folder that is left out.
    kind: what it is one of, in the singular: 'file with the suffix .heic', for example.
  """

  path: Path
  kind: str


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


def list_images_below(folder: Path, any_name: bool = False) -> tuple[list[Path], list[LeftOut]]:
  """The files that are images by their suffix, in a folder and in its subfolders.

  Linked folders are followed, each folder once. What is hidden is neither read nor named.

  Args:
    folder: the folder, which need not exist.
    any_name: whether images may have names that cannot be printed, and folders those of
      images.

  Returns:
    The images in a fixed order, a folder's own before those of its subfolders; and what was
    left out, for `describe_left_out`: files of other suffixes, links that lead back, folders
    that cannot be opened, and what `predict` wrote. A broken link is among the images, so
    that reading it says what is wrong.

  Raises:
    UserError: the name of an image cannot be printed, or a folder is called as one.
  """
  images: list[Path] = []
  left_out: list[LeftOut] = []
  for path in _Walk(left_out, any_name).below(folder) if folder.is_dir() else ():
    if path.suffix.lower() not in suffixes():
      kind = f'with the suffix {path.suffix.lower()}' if path.suffix else 'without a suffix'
      left_out.append(LeftOut(path, f'file {kind}'))
      continue
    if not any_name and not str(path.relative_to(folder)).isprintable():
      raise UserError(f'{path} has a name that cannot be printed; rename it.')
    images.append(path)
  return images, left_out


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
  """What was left out, as one sentence that counts and names it; '' where nothing was."""
  kinds: dict[str, list[str]] = {}
  for item in left_out:
    kinds.setdefault(item.kind, []).append(str(item.path))
  parts = []
  for kind, paths in kinds.items():
    noun, _, rest = kind.partition(' ')
    more = [f'{len(paths) - _NAMED} more'] if len(paths) > _NAMED else []
    names = ', '.join([*paths[:_NAMED], *more])
    parts.append(f'{counted(len(paths), noun)} {rest} ({names})')
  return explain(UserError(f'Left out: {"; ".join(parts)}.')) if parts else ''


def note_anomalous_training(category: str, number: int, where: str) -> list[str]:
  """Says how many training images are not learned from, as they are anomalous.

  Args:
    category: name of the category.
    number: number of these images; nothing is said of none.
    where: name of the folder, or file, in which they lie.
  """
  if not number:
    return []
  images = counted(number, 'anomalous training image')
  return [f'{category}: {images} left out ({where}), as only normal ones are learned from.']


def is_predicted(path: Path) -> bool:
  """Whether a path is of what `predict` wrote beside its scores.csv."""
  return any(
    inner.name in _WRITTEN and _holds_scores(inner.parent) for inner in (path, *path.parents)
  )


def with_masks(pairs: Sequence[tuple[Sample, Path | None]]) -> list[Sample]:
  """Gives anomalous samples their masks (protocol, data to arrays).

  Args:
    pairs: samples without a mask, each with the file that its mask is expected in.

  Returns:
    The samples, the anomalous ones with their masks; without any where no mask is there.

  Raises:
    UserError: some anomalous images have a mask and others have none.
  """
  found = {s.id: m for s, m in pairs if s.label and m is not None and m.is_file()}
  for sample, mask in pairs:
    if not sample.label:
      mention_normal_mask(sample.id, mask)
    elif found and sample.id not in found:
      refuse(
        MASKLESS,
        mask or Path(str(sample.image)),
        f'{sample.image} has no mask{f": {mask} is expected" if mask else ""}, because other '
        'images have theirs; add it, or remove all masks to do without pixel metrics.',
      )
  return [dataclasses.replace(s, mask=found.get(s.id)) if s.label else s for s, _ in pairs]


def explain_missing_root(root: Path) -> str:
  """What to say of a root that is no folder: ', but ...', or nothing."""
  if root.is_file():
    return f', but a file: {_extract(root)}' if _is_archive(root) else ', but a file'
  archives = _archives(root.parent)
  return f', but an archive beside it: {_extract(archives[0])}' if archives else ''


def explain_archive(root: Path) -> str:
  """What to say of a root without data that holds an archive: ' but ...', or nothing."""
  archives = _archives(root)
  return f' but an archive: {_extract(archives[0])}' if archives else ''


class _Walk:
  """Visits folders once each, whatever links lead to them."""

  def __init__(self, left_out: list[LeftOut], any_name: bool):
    """Takes the list to which the folders are added that are not read."""
    self._left_out, self._any_name = left_out, any_name
    self._due: set[tuple[int, int]] = set()  # need no link to be visited
    self._visited: set[tuple[int, int]] = set()

  def below(self, folder: Path) -> Iterator[Path]:
    """All that is no folder below a folder."""
    for current, folders, _ in os.walk(folder):
      folders[:] = [name for name in folders if not name.startswith('.')]
      self._due.add(_identity(Path(current)))
    yield from self._visit(folder, folder.resolve())

  def _visit(self, folder: Path, root: Path) -> Iterator[Path]:
    if _identity(folder) in self._visited:
      self._leave_out(folder, 'folder that was read already')
      return
    self._visited.add(_identity(folder))
    try:
      entries = sorted(p for p in folder.iterdir() if not p.name.startswith('.'))
    except OSError:
      self._leave_out(folder, 'folder that cannot be opened')
      return
    if _holds_scores(folder):
      self._leave_out(folder, 'folder with results of memkd predict, which are no input')
      entries = [p for p in entries if p.name not in _WRITTEN]
    folders = [p for p in entries if os.path.isdir(p)]
    yield from sorted(set(entries) - set(folders))
    for entry in folders:
      if not self._any_name and entry.suffix.lower() in suffixes():
        raise UserError(f'{entry} is a folder with the name of an image; rename or remove it.')
      if not entry.is_symlink():
        yield from self._visit(entry, root)
      elif root.is_relative_to(entry.resolve()):
        self._leave_out(entry, 'link to a folder above')
      elif _identity(entry) in self._due:
        self._leave_out(entry, 'link to a folder that is read without it')
      else:
        yield from self.below(entry)

  def _leave_out(self, path: Path, kind: str) -> None:
    self._left_out.append(LeftOut(path, kind))


def _identity(folder: Path) -> tuple[int, int]:
  status = folder.stat()
  return status.st_dev, status.st_ino


def _holds_scores(folder: Path) -> bool:
  for name in SCORES:
    try:
      with (folder / name).open('rb') as file:
        if file.read(len(SCORES_BEGIN)) == SCORES_BEGIN.encode():
          return True
    except OSError:
      pass
  return False


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
