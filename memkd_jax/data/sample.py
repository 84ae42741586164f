"""What a reader lists."""

import dataclasses
from pathlib import PurePosixPath
from typing import IO, Literal, Protocol

GOOD = 'good'


class Readable(Protocol):
  """What opens as a `pathlib.Path` does, and is named in errors by its `str`."""

  def open(self, mode: Literal['rb']) -> IO[bytes]:
    """Opens the encoded image."""


@dataclasses.dataclass(frozen=True)
class Sample:
  """One image of a split.

  Attributes:
    id: path relative to the category, unique within it.
    image: the image file, a path as a rule.
    mask: the ground-truth file, None for a normal image or a set without masks.
    defect: name of the kind of defect, 'good' for a normal image.
  """

  id: str
  image: Readable
  mask: Readable | None
  defect: str

  @property
  def stem(self) -> str:
    """The file's name without folders and suffix."""
    return PurePosixPath(self.id).stem

  @property
  def label(self) -> int:
    """1 for an anomalous image, 0 for a normal one; never read off the mask."""
    return int(self.defect != GOOD)
