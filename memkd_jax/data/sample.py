"""What a reader lists."""

import dataclasses
from pathlib import Path

GOOD = 'good'


@dataclasses.dataclass(frozen=True)
class Sample:
  """One image of a split.

  Attributes:
    id: path relative to the category, unique within it.
    image: the image file.
    mask: the ground-truth file, None for a normal image or a set without masks.
    defect: name of the kind of defect, 'good' for a normal image.
  """

  id: str
  image: Path
  mask: Path | None
  defect: str

  @property
  def label(self) -> int:
    """1 for an anomalous image, 0 for a normal one; never read off the mask."""
    return int(self.defect != GOOD)
