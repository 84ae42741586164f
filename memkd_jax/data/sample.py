"""What a data set is to this project, and what its reader lists."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol

GOOD = 'good'
# What people call the folder, or the label, of normal images.
NORMAL_NAMES = (GOOD, 'ok', 'normal', 'nominal')


class Readable(Protocol):
  """What opens as a `pathlib.Path` does, and is named in errors by its `str`."""

  def open(self, mode: Literal['rb']) -> IO[bytes]:
    """Opens the encoded image."""


@dataclasses.dataclass(frozen=True)
class Saturation:
  """How much of a defect has to be found (Bergmann et al., IJCV 2022, section 4.2).

  Attributes:
    value: the value of the pixels that are marked as such a defect.
    threshold: how many pixels of the original image suffice; or which share of the defect.
    relative: whether the threshold is a share.
  """

  value: int
  threshold: float
  relative: bool

  def area(self, pixels: int) -> int:
    """The pixels that suffice, of a defect of so many; between one and all of them."""
    wanted = self.threshold * pixels if self.relative else self.threshold
    return min(max(1, int(wanted)), pixels)


@dataclasses.dataclass(frozen=True)
class LayeredMask:
  """The ground truth of an image in several files, of one defect each, which may overlap.

  Attributes:
    layers: the files, at least one; where a pixel is not zero, its value names the defect.
    saturations: how much has to be found of each kind of defect of the category.
  """

  layers: tuple[Readable, ...]
  saturations: tuple[Saturation, ...]

  def __str__(self) -> str:
    first, *more = map(str, self.layers)
    return f'{first} and {len(more)} more' if more else first


Mask = Readable | LayeredMask


def files_of(mask: Mask | None) -> tuple[Readable, ...]:
  """The files that a mask consists of, if any."""
  if mask is None:
    return ()
  return mask.layers if isinstance(mask, LayeredMask) else (mask,)


@dataclasses.dataclass(frozen=True)
class Sample:
  """One object of a split: its image, and what else was recorded of it.

  Attributes:
    id: path of the image relative to the category, unique within it.
    inputs: the files by what they are, paths as a rule: 'rgb', the image, always; beside it
      what `modalities` reads.
    mask: the ground-truth file or files, None for a normal image or a set without masks.
    defect: name of the kind of defect, 'good' for a normal image.
  """

  id: str
  inputs: Mapping[str, Readable]
  mask: Mask | None
  defect: str

  @property
  def image(self) -> Readable:
    """The image file."""
    return self.inputs['rgb']

  @property
  def stem(self) -> str:
    """The file's name without folders and suffix."""
    return PurePosixPath(self.id).stem

  @property
  def label(self) -> int:
    """1 for an anomalous image, 0 for a normal one; never read off the mask."""
    return int(self.defect != GOOD)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A benchmark, or a folder of one's own.

  Attributes:
    categories: the known ones, or None where every folder is a category.
    where: how to come by the data, one sentence without its full stop.
    layout: the files as the publisher ships them, for errors.
    list_samples: `(root, category, split) -> samples`, see `folder.list_samples`.
    prepare: makes the data at a root that does not exist yet, where they can be made.
    options: names of the fields of `data` that `list_samples` and `notes` take by name.
    notes: `(root, category) -> sentences` on how the files were read, and what is left out.
    list_categories: `root -> categories` of one's own, which are known where they are there.
    is_listed: whether the root is one category, and may be a file that lists its images.
    has_validation: whether there is a third split, 'validation', of normal images to set
      thresholds with.
    three_sigma: whether its publisher's baseline calls pixels anomalous that lie three standard
      deviations above the mean of those of the validation images.
    unlabelled: `(root, category) -> images` whose labels the publisher keeps; None for none.
    object_of: names the object that an image shows, where objects have several images each;
      None where each image is of an object of its own.
    folder_of: `(root, category) -> folder` below which the files of a category lie, where that
      is not called as the category.
    config: the config that the package brings for it, where it is not called as the data set.
  """

  categories: tuple[str, ...] | None
  where: str
  layout: str
  list_samples: Callable[..., list[Sample]]
  prepare: Callable[[Path], None] | None = None
  options: tuple[str, ...] = ()
  notes: Callable[..., Sequence[str]] = lambda root, category, **options: ()
  list_categories: Callable[..., list[str]] | None = None
  is_listed: bool = False
  has_validation: bool = False
  three_sigma: bool = False
  unlabelled: Callable[[Path, str], list[Path]] | None = None
  object_of: Callable[[Sample], str] | None = None
  folder_of: Callable[[Path, str], Path] = Path.joinpath
  config: str = ''
