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
class Sample:
  """One object of a split: its image, and what else was recorded of it.

  Attributes:
    id: path of the image relative to the category, unique within it.
    inputs: the files by what they are, paths as a rule: 'rgb', the image, always; beside it
      what `modalities` reads.
    mask: the ground-truth file, None for a normal image or a set without masks.
    defect: name of the kind of defect, 'good' for a normal image.
  """

  id: str
  inputs: Mapping[str, Readable]
  mask: Readable | None
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
    object_of: names the object that an image shows, where objects have several images each;
      None where each image is of an object of its own.
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
  object_of: Callable[[Sample], str] | None = None
  config: str = ''
