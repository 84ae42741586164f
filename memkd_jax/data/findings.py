"""What can be wrong with a data set that is looked over, by kinds."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from memkd_jax.data import survey


class Kind(NamedTuple):
  """What findings have in common.

  Attributes:
    title: words for several findings of the kind.
    is_fault: whether the data set is not what it should be; else it is worth knowing.
  """

  title: str
  is_fault: bool = True


# In the order in which they are told.
KINDS = {
  'missing category': Kind('Missing categories'),
  'unreadable folder': Kind('Folders that cannot be opened'),
  'missing split': Kind('Splits that are missing or cannot be listed'),
  'count': Kind('Numbers that differ from the published ones'),
  survey.MISSING: Kind('Missing files'),
  survey.UNKNOWN: Kind('Metadata that are missing or broken'),
  survey.INPUTLESS: Kind('Missing depth, normals or point clouds'),
  survey.MASKLESS: Kind('Missing masks'),
  'no masks': Kind('Categories without any mask'),
  survey.IMAGELESS: Kind('Masks without an image'),
  survey.MISPLACED: Kind('Images in no subfolder'),
  'broken image': Kind('Broken images'),
  survey.BROKEN_MASK: Kind('Broken masks'),
  'broken input': Kind('Broken depth, normals or point clouds'),
  'other size': Kind('Masks, depth, normals or point clouds of another size than the image'),
  'empty mask': Kind('Masks of anomalous images that mark nothing'),
  'marked normal': Kind('Masks of normal images that mark something'),
  'leak': Kind('Images of one split that are of another as well'),
  'soft mask': Kind('Masks with grey values between', is_fault=False),
  'unusual size': Kind('Images of another size than the rest', is_fault=False),
  'unusual mode': Kind('Images of other channels than the rest', is_fault=False),
  'some masks': Kind('Categories in which some masks are missing', is_fault=False),
  'no inputs': Kind('Photographs without depth, normals or point clouds', is_fault=False),
  'left out': Kind('Categories with training images that are left out', is_fault=False),
  'unlisted': Kind('Files that no split lists', is_fault=False),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that was found.

  Attributes:
    kind: name of the kind, a key of `KINDS`.
    path: the file or folder that it is about.
    text: says what is wrong, with the path; two of the same kind and text are one.
  """

  kind: str
  path: str = dataclasses.field(compare=False)
  text: str

  @property
  def is_fault(self) -> bool:
    """See `Kind`."""
    return KINDS[self.kind].is_fault


def by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
  """Findings by their kinds, in the order of these; what was found twice stands there once."""
  once = dict.fromkeys(findings)
  groups = {kind: [f for f in once if f.kind == kind] for kind in KINDS}
  return {kind: some for kind, some in groups.items() if some}
