"""Where the decoded images of a split live: in memory, or in a file where they do not fit."""

import dataclasses
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from memkd_jax.data.framing import Framing
from memkd_jax.errors import UserError
from memkd_jax.files.stored_rows import RowFile

PLACES = ('auto', 'host', 'disk')
# Of the memory that is free: training copies images, and needs memory of its own.
_SHARE = 0.25
_OF_DISK = 0.9  # of what is free there: others write there too


_held = 0  # bytes of all files that there are now
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Scratch:
  """A folder for files without a name, which last no longer than what refers to them.

  Attributes:
    root: the folder in which they are made, or the system's folder for temporary files where it
      is missing.
    limit: bytes that all of them may take together; 0 for no limit but the disk's.
    chosen: whether the folder was asked for by name, and must be there.
  """

  root: Path
  limit: int = 0
  chosen: bool = False

  @property
  def folder(self) -> Path:
    """Where files are made.

    Raises:
      UserError: the folder that was asked for is missing.
    """
    if self.root.is_dir():
      return self.root
    if self.chosen:
      raise UserError(
        f'--config.data.scratch={self.root} is no folder; make it, or name another.'
      )
    return Path(tempfile.gettempdir())

  def room(self) -> int:
    """Bytes that a further file may take; see `Scratch.folder` for errors."""
    free = int(_OF_DISK * shutil.disk_usage(self.folder).free)
    return max(0, min(free, self.limit - _held)) if self.limit else free

  def array(self, shape: Sequence[int], dtype: Any, what: str, field: str) -> np.ndarray:
    """An array of a file, to be filled.

    Args:
      shape: (N, ...), the shape of the whole array.
      dtype: numpy dtype of the array.
      what: words for what is to be kept there, for the error.
      field: 'section.field=value', the wish that this is.

    Returns:
      A `stored_rows.RowFile`, which is read as arrays are.

    Raises:
      UserError: there is no room.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    self.check(size, what, field)
    try:
      file = RowFile(self.folder, shape, dtype)
    except OSError as error:
      raise self._too_small(size, what, field, f' ({error.strerror})') from error
    _count(size)
    weakref.finalize(file, _count, -size)
    return cast(np.ndarray, file)

  def check(self, size: int, what: str, field: str) -> None:
    """Raises UserError where there is no room for so many bytes; see `array`."""
    if size > self.room():
      raise self._too_small(size, what, field)

  def _too_small(self, size: int, what: str, field: str, reason: str = '') -> UserError:
    return UserError(
      f'--config.{field}: {what} need {size / 1e9:,.2f} GB in {self.folder}, where '
      f'{self.room() / 1e9:,.2f} GB may be taken{reason}; make room there, raise '
      '--config.data.disk_limit where it is set, or name another folder with '
      '--config.data.scratch.'
    )


def _count(size: int) -> None:
  global _held
  with _lock:
    _held += size


def scratch_of(data: Mapping[str, Any], root: Path) -> Scratch:
  """The folder of a run for such files.

  Args:
    data: a resolved config's section 'data', of an older run too.
    root: the run's folder, which only the first of several processes may have.
  """
  chosen = data.get('scratch', '')
  limit = int(1e9 * data.get('disk_limit', 0.0))
  return Scratch(Path(chosen or root), limit, bool(chosen))


def bytes_of(framing: Framing, number: int) -> int:
  """The size of so many decoded images, whose canvases have one size."""
  assert not callable(framing.canvas)
  return number * int(np.prod((*framing.canvas, framing.channels), dtype=np.int64))


def choose_place(
  wanted: str, framing: Framing, number: int, free: int, room: int
) -> Literal['host', 'disk']:
  """Decides where decoded images are kept; it changes no bit of what is made of them.

  Args:
    wanted: one of `PLACES`. 'auto' takes the disk where the images need more than a quarter of
      the memory that is free, and the disk has room for them.
    framing: how images lie on their canvases.
    number: how many images are kept at once, all in all.
    free: bytes of memory, 0 where the system does not say.
    room: bytes that a file may take.

  Returns:
    'host' for memory, or 'disk'.

  Raises:
    UserError: the disk is asked for where images have sizes of their own.
  """
  if callable(framing.canvas):
    if wanted == 'disk':
      raise UserError(
        '--config.data.memory=disk: with data.tile_size each image has a size of its own, '
        'which a file of equal rows does not hold; give data.tiles in its place, or host.'
      )
    return 'host'
  if wanted == 'auto':
    size = bytes_of(framing, number)
    return 'disk' if free and _SHARE * free < size <= room else 'host'
  return 'disk' if wanted == 'disk' else 'host'
