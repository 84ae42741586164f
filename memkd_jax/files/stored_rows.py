"""Arrays [N, ...] larger than memory, in files: written once, and read by index.

What reads images reads them from an array by `images[i]`, by slices and by arrays of indices.
`Rows` can be read likewise, so that both pass under the type np.ndarray; what is more than a
batch (`take`, `concatenate`, `mapped`) stays unread until it is indexed itself.

A file is read and written with pread and pwrite, not mapped: what is read counts as memory of
nobody beyond the page cache, a disk that fails is an OSError and not a signal that kills the
process, and several threads read at once.
"""

import errno
import functools
import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Rows:
  """N equal arrays that are read when they are indexed.

  Attributes:
    shape: (N, ...), the shape of all rows together.
    dtype: numpy dtype of all rows.
  """

  def __init__(self, shape: Sequence[int], dtype: Any):
    """Reads nothing."""
    self.shape = tuple(int(length) for length in shape)
    self.dtype = np.dtype(dtype)

  def read_into(self, i: int, out: np.ndarray) -> None:
    """Reads row i, from 0 to N - 1, into an array of its shape and dtype, in C order."""
    raise NotImplementedError

  @property
  def ndim(self) -> int:
    """The number of dimensions, N's among them."""
    return len(self.shape)

  @property
  def nbytes(self) -> int:
    """The bytes of all rows."""
    return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

  def __len__(self) -> int:
    return self.shape[0]

  def __iter__(self) -> Iterator[np.ndarray]:
    for i in range(len(self)):
      yield self[i]

  def __getitem__(self, which: Any) -> np.ndarray:
    """Reads some rows: an index, a slice, or an array of indices [...], which gives [..., row].

    Raises:
      IndexError: there is no such row, or the index is of something else.
      OSError: they cannot be read.
    """
    if isinstance(which, slice):
      indices = np.arange(*which.indices(len(self)))
    else:
      indices = np.asarray(which)
      if indices.dtype == bool:
        indices = np.flatnonzero(indices)
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
      raise IndexError('rows of a file are read by whole numbers and slices alone')
    if indices.size and not -len(self) <= indices.min() <= indices.max() < len(self):
      raise IndexError(f'there are {len(self)} rows')
    found = np.empty((*indices.shape, *self.shape[1:]), self.dtype)
    flat = found.reshape(-1, *self.shape[1:])
    for place, i in enumerate(indices.ravel().tolist()):
      self.read_into(i % len(self), flat[place])
    return found

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """Reads everything, for what needs it all at once."""
    return self[:] if dtype is None else self[:].astype(dtype)

  @functools.cached_property
  def digest(self) -> str:
    """The sha256 of all rows, in hexadecimal; read once, since no row changes any more."""
    found, row = hashlib.sha256(), np.empty(self.shape[1:], self.dtype)
    for i in range(len(self)):
      self.read_into(i, row)
      found.update(row.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


class RowFile(Rows):
  """Rows in a file without a name, which is gone when nobody refers to it any more.

  So it is when the process is killed: there is nothing to tidy up.
  """

  def __init__(self, folder: Path, shape: Sequence[int], dtype: Any):
    """Makes the file, and takes its room on the disk.

    Args:
      folder: the folder of the file, on a disk that has room.
      shape: (N, ...), the shape of all rows together.
      dtype: numpy dtype of all rows.

    Raises:
      OSError: there is no room, or the folder cannot be written to.
    """
    super().__init__(shape, dtype)
    self._row_bytes = self.nbytes // max(1, len(self))
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    self._handle = file.fileno()
    weakref.finalize(self, file.close)
    try:
      if self.nbytes and hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(self._handle, 0, self.nbytes)
    except OSError as error:
      if error.errno not in _CANNOT_RESERVE:
        error.filename = str(folder)
        raise

  def __setitem__(self, which: Any, rows: Any) -> None:
    """Writes a row, or the rows of a slice; several threads may write different ones at once.

    Raises:
      OSError: the disk is full, or fails.
    """
    begin = which.indices(len(self))[0] if isinstance(which, slice) else int(which)
    data = np.ascontiguousarray(rows, self.dtype)
    expected = self.shape[1:] if not isinstance(which, slice) else (len(data), *self.shape[1:])
    if data.shape != expected or not 0 <= begin <= len(self):
      raise ValueError(f'rows of {expected} are written, not {data.shape} at {begin}')
    view = data.reshape(-1).view(np.uint8).data
    offset = begin * self._row_bytes
    while view:
      written = os.pwrite(self._handle, view, offset)
      view, offset = view[written:], offset + written

  def read_into(self, i: int, out: np.ndarray) -> None:
    view = out.reshape(-1).view(np.uint8).data
    offset = i * self._row_bytes
    while view:
      number = os.preadv(self._handle, [view], offset)
      if not number:
        raise OSError(errno.EIO, 'a file of decoded images ends too early')
      view, offset = view[number:], offset + number


class _Selected(Rows):
  """Some rows of others, in any order."""

  def __init__(self, rows: Rows, indices: np.ndarray):
    super().__init__((len(indices), *rows.shape[1:]), rows.dtype)
    self._rows, self._indices = rows, indices

  def read_into(self, i: int, out: np.ndarray) -> None:
    self._rows.read_into(int(self._indices[i]), out)


class _Joined(Rows):
  """The rows of several, one after the other; they may be arrays as well."""

  def __init__(self, parts: Sequence[Any]):
    super().__init__((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    self._parts = tuple(parts)
    self._ends = np.cumsum([len(part) for part in parts])

  def read_into(self, i: int, out: np.ndarray) -> None:
    part = int(np.searchsorted(self._ends, i, side='right'))
    out[...] = self._parts[part][i - int(self._ends[part]) + len(self._parts[part])]


class _Mapped(Rows):
  """What a function makes of rows."""

  def __init__(
    self,
    rows: Rows,
    indices: np.ndarray,
    function: Callable[[int, np.ndarray], np.ndarray],
    shape: Sequence[int],
  ):
    super().__init__((len(indices), *shape), rows.dtype)
    self._rows, self._indices, self._function = rows, indices, function

  def read_into(self, i: int, out: np.ndarray) -> None:
    out[...] = self._function(i, self._rows[int(self._indices[i])])


def is_stored(images: Any) -> bool:
  """Whether something is read from a file when it is indexed."""
  return isinstance(images, Rows)


def take(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """Some of the images, int [n]: `images[indices]`, which of a file is not read yet."""
  rows: Any = images
  if not isinstance(rows, Rows):
    return images[indices]
  return cast(np.ndarray, _Selected(rows, np.arange(len(rows))[indices]))


def concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
  """`np.concatenate(parts)`, which is not read yet where any part is of a file."""
  if not any(map(is_stored, parts)):
    return np.concatenate(parts)
  return cast(np.ndarray, _Joined(parts))


def mapped(
  images: np.ndarray,
  indices: np.ndarray,
  function: Callable[[int, np.ndarray], np.ndarray],
  shape: Sequence[int],
) -> np.ndarray:
  """What a function makes of some images, read and computed when it is indexed.

  Args:
    images: images of a file, [N, ...], of which `is_stored` is true.
    indices: int [n], indices of the images that are taken.
    function: `(i, images[indices[i]])`, gives an array of the same dtype.
    shape: shape of the array that the function gives.

  Returns:
    [n, *shape].
  """
  rows: Any = images
  return cast(np.ndarray, _Mapped(rows, indices, function, shape))
