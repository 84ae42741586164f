"""Reads ahead, with threads of grain, what is asked for by ascending numbers."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Read = TypeVar('_Read')
_THREADS = 2  # which read, and wait for the disk most of the time
_AHEAD = 4  # readings that wait for their turn


class _Source(Generic[_Read]):
  """A `grain.sources.RandomAccessDataSource` of what a function reads."""

  def __init__(self, read: Callable[[int], _Read], number: int):
    self._read, self._number = read, number

  def __len__(self) -> int:
    return self._number

  def __getitem__(self, index: Any) -> _Read:
    return self._read(int(index))

  def __repr__(self) -> str:
    return f'_Source({self._number})'


class Prefetch(Generic[_Read]):
  """Gives `read(number)` for ascending numbers from any one on; a context manager.

  What is given is what the function gives, in the same order: threads only fetch it earlier.
  """

  def __init__(self, read: Callable[[int], _Read], number: int):
    """Reads nothing yet.

    Args:
      read: called with numbers by several threads at once; must not give None.
      number: how many readings there are: the last one is `number - 1`.
    """
    self._source = _Source(read, number)
    self._iterator: Any = None
    self._next = 0

  def __enter__(self) -> 'Prefetch[_Read]':
    return self

  def __exit__(self, *_: object) -> None:
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None

  def __call__(self, number: int) -> _Read:
    """The reading of a number; the first one, and one out of turn, begin anew from there.

    Raises:
      Exception: what the function raised.
    """
    if self._iterator is None or number != self._next:
      self.__exit__()
      self._iterator = self._begin(number)
    self._next = number + 1
    found: _Read = next(self._iterator)
    return found

  def _begin(self, number: int) -> Any:
    import grain  # takes seconds, which commands without it need not wait for

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    readings = grain.MapDataset.source(self._source)[number:]
    return iter(readings.to_iter_dataset(options))
