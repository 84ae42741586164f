"""The files of a data set that no split lists."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkd_jax.data.findings import Finding
from memkd_jax.data.listing import list_images_below
from memkd_jax.data.sample import Dataset, Sample
from memkd_jax.data.survey import UNKNOWN

if TYPE_CHECKING:
  from memkd_jax.data.inspection import Category


class Tree:
  """All files below a folder."""

  def __init__(self, root: Path):
    """Walks through it once.

    Args:
      root: the folder; of a file that lists images nothing is known.
    """
    self.root = root
    self._images, left_out = list_images_below(root, any_name=True)
    self._others = [item.path for item in left_out if item.kind.startswith('file')]
    self._unopened = [item.path for item in left_out if 'opened' in item.kind]

  def report_unopened(self, categories: 'Sequence[Category]', rest: list[Finding]) -> None:
    """Finds the folders that cannot be opened.

    Args:
      categories: the categories, to which findings of the folders below them are added.
      rest: list to which findings of the other folders are added.
    """
    for path in self._unopened:
      text = f'{path} cannot be opened; give this user access to it.'
      self._findings_of(path, categories, rest).append(
        Finding('unreadable folder', str(path), text)
      )

  def report_unlisted(
    self, categories: 'Sequence[Category]', rest: list[Finding], dataset: Dataset, whole: bool
  ) -> None:
    """Finds the files that no split lists.

    These are images, and whatever lies beside listed images; but not what a publisher has
    beside each image, of the same number, nor what a reader leaves out on purpose.

    Args:
      categories: what is listed; of those with splits that cannot be listed nothing is said.
      rest: list to which findings of files in no category are added.
      dataset: the data set that is looked at.
      whole: whether all categories are; else what lies in no category is not looked for.
    """
    listed = _listed(categories)
    known = {path for category in categories for path in category.known}
    more_is_beside = dataset.categories and 'inputs' in dataset.options
    companions = _Companions(categories if more_is_beside else ())
    beside = {path.parent for path in listed}
    others = [path for path in self._others if path.parent in beside]
    named = {f.path for c in categories for f in c.findings}
    unlisted = [p for p in self._images if p not in listed and str(p) not in named]
    unlisted = [p for p in (*unlisted, *others) if known.isdisjoint((p, *p.parents))]
    for path in sorted(unlisted):
      findings = self._findings_of(path, categories, rest)
      failed = any(c.failed for c in categories if c.findings is findings)
      if not (companions.have(path) or failed or (findings is rest and not whole)):
        findings.append(Finding('unlisted', str(path), str(path)))

  def unsorted(self, category: 'Category') -> list[Path]:
    """The images of a category that may belong to the splits that cannot be listed."""
    if not category.failed:
      return []
    listed = _listed([category])
    return [p for p in self._images if p.is_relative_to(category.folder) and p not in listed]

  def _findings_of(
    self, path: Path, categories: 'Sequence[Category]', rest: list[Finding]
  ) -> list[Finding]:
    text = f'{path}{os.sep}'
    for category in categories:
      if text.startswith(f'{category.folder}{os.sep}'):
        return category.findings
    return rest


class _Companions:
  """What lies beside images, and begins as their names do: 000_normals.png, 000_image_0.png."""

  def __init__(self, categories: 'Sequence[Category]'):
    images = {s.image for c in categories for some in c.splits.values() for s in some}
    images |= {Path(f.path) for c in categories for f in c.findings if f.kind == UNKNOWN}
    self._begins = Counter(_beginning(p) for p in images if isinstance(p, Path))

  def have(self, path: Path) -> bool:
    """Whether a file belongs to one image, and not to several."""
    return '_' in path.name and self._begins[_beginning(path)] == 1


def _beginning(path: Path) -> Path:
  return path.with_name(path.name.partition('_')[0])


def _listed(categories: 'Sequence[Category]') -> set[Path]:
  listed: set[Path] = set()
  for category in categories:
    listed.update(category.normal_masks.values(), category.unlabelled or ())
    samples: list[Sample] = list(category.left_out)
    for some in category.splits.values():
      samples += some
    for sample in samples:
      for file in (*sample.inputs.values(), sample.mask):
        listed.update(_paths_in(file))
  return listed


def _paths_in(value: Any) -> Iterator[Path]:
  """The files of what a reader gives: a path, or an object that is made of several."""
  if isinstance(value, Path):
    yield value
  elif isinstance(value, tuple | list):
    for part in value:
      yield from _paths_in(part)
  elif dataclasses.is_dataclass(value):
    for field in dataclasses.fields(value):
      yield from _paths_in(getattr(value, field.name))
