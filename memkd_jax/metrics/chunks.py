"""Many scores, sorted in a few large chunks."""

import numpy as np

# Sorted scores need no second buffer, and few chunks keep the look-ups few.
_CHUNK = 2**24


class SortedChunks:
  """Collects scores, and sorts them in chunks of at least so many.

  >>> chunks = SortedChunks()
  >>> chunks.add(np.array([3.0, 1.0]))
  >>> chunks.add(np.array([2.0]))
  >>> chunks.sorted()
  [array([1., 2., 3.])]
  """

  def __init__(self) -> None:
    self._sorted: list[np.ndarray] = []
    self._unsorted: list[np.ndarray] = []
    self._waiting = 0

  def add(self, scores: np.ndarray) -> None:
    """Adds scores [N], which are forgotten by the caller."""
    self._unsorted.append(scores)
    self._waiting += scores.size
    if self._waiting >= _CHUNK:
      self.sorted()

  def sorted(self) -> list[np.ndarray]:
    """All of them, in chunks [N_i] that are sorted upwards each."""
    if self._unsorted:
      chunk = np.concatenate(self._unsorted)
      self._unsorted.clear()
      self._waiting = 0
      chunk.sort()
      self._sorted.append(chunk)
    return self._sorted
