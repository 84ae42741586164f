"""Gathers the images of concurrent requests into few calls of a detector."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from memkd_jax.scoring.base import Result


class Scorer(Protocol):
  """What the batcher needs of a `Detector`."""

  @property
  def images_at_once(self) -> int:
    """The most images of a call."""

  def score_canvases(self, canvases: Sequence[np.ndarray]) -> Result:
    """Scores images that have been resized already."""

  def compile(self) -> None:
    """Makes sure that no later call compiles."""


class BusyError(Exception):
  """As many images as may be are being worked on."""


@dataclass
class _Waiting:
  """An image whose turn has not come, and where its result goes."""

  scorer: Scorer
  image: np.ndarray
  since: float = field(default_factory=time.monotonic)
  result: Future[Result] = field(default_factory=Future)


class Batcher:
  """One thread that calls the detectors, with as many waiting images at once as fit.

  An image that finds the device idle waits for others for some milliseconds; what comes
  while a batch is being scored goes into the next one.
  """

  def __init__(
    self,
    scorers: Iterable[Scorer],
    limit: int,
    wait: float = 0.005,
    on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    on_compiled: Callable[[Exception | None], None] = lambda failure: None,
  ):
    """Starts nothing yet.

    Args:
      scorers: all scorers that may be asked; they are compiled first.
      limit: images that may be admitted at once.
      wait: seconds for which the first image of a batch waits for others.
      on_batch: is told of each batch how many images it had, and how long it took in
        seconds.
      on_compiled: is called once, with what went wrong in compiling, or None.
    """
    self._scorers = list(scorers)
    self._limit = limit
    self._wait = wait
    self._on_batch = on_batch
    self._on_compiled = on_compiled
    self._changed = threading.Condition()
    self._waiting: deque[_Waiting] = deque()
    self._admitted = 0
    self._closed = False
    self._ready = threading.Event()
    self._failed: Exception | None = None
    self._thread = threading.Thread(target=self._work, name='scoring')

  @property
  def ready(self) -> bool:
    """Whether all is compiled."""
    return self._ready.is_set()

  @property
  def failure(self) -> Exception | None:
    """Why compiling ended; None as long as it has not failed."""
    return self._failed

  @property
  def admitted(self) -> int:
    """Images that are being received, decoded, waited for and scored."""
    return self._admitted

  def start(self) -> None:
    """Starts the thread, which compiles first."""
    self._thread.start()

  def close(self) -> None:
    """Scores what waits, then ends the thread."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    if self._thread.is_alive():
      self._thread.join()

  @contextmanager
  def admit(self, number: int) -> Iterator[None]:
    """Counts images that are on their way, so that no more come than can be held.

    Raises:
      BusyError: they would exceed the limit.
    """
    with self._changed:
      if self._admitted + number > self._limit:
        raise BusyError
      self._admitted += number
    try:
      yield
    finally:
      with self._changed:
        self._admitted -= number

  def submit(self, scorer: Scorer, image: np.ndarray) -> Future[Result]:
    """Queues one image.

    Args:
      scorer: the scorer that is asked for the image.
      image: uint8 [H, W, 3].

    Returns:
      The future result of this image, N = 1.
    """
    waiting = _Waiting(scorer, image)
    with self._changed:
      if self._closed:
        raise BusyError
      self._waiting.append(waiting)
      self._changed.notify_all()
    return waiting.result

  def _work(self) -> None:
    try:
      for scorer in self._scorers:
        if not self._closed:
          scorer.compile()
    except Exception as error:
      self._failed = error
      self._on_compiled(error)
      return
    self._ready.set()
    self._on_compiled(None)
    while batch := self._next_batch():
      self._score(batch)

  def _next_batch(self) -> list[_Waiting]:
    """Waits for images of one detector; empty when closed and nothing is left."""
    with self._changed:
      self._changed.wait_for(lambda: self._waiting or self._closed)
      if not self._waiting:
        return []
      first = self._waiting[0]
      size = first.scorer.images_at_once

      def is_full() -> bool:
        return self._closed or self._count(first.scorer) >= size

      self._changed.wait_for(is_full, max(0.0, first.since + self._wait - time.monotonic()))
      size = _good_size(min(size, self._count(first.scorer)))
      batch: list[_Waiting] = []
      rest = deque[_Waiting]()
      for waiting in self._waiting:
        fits = waiting.scorer is first.scorer and len(batch) < size
        (batch if fits else rest).append(waiting)
      self._waiting = rest
      return batch

  def _count(self, scorer: Scorer) -> int:
    return sum(waiting.scorer is scorer for waiting in self._waiting)

  def _score(self, batch: list[_Waiting]) -> None:
    # Whose client has gone is left out.
    batch = [waiting for waiting in batch if waiting.result.set_running_or_notify_cancel()]
    if not batch:
      return
    begin = time.monotonic()
    try:
      result = batch[0].scorer.score_canvases([waiting.image for waiting in batch])
    # One batch that fails, for lack of memory perhaps, must not end the thread.
    except Exception as error:
      for waiting in batch:
        waiting.result.set_exception(error)
      return
    self._on_batch(len(batch), time.monotonic() - begin)
    for i, waiting in enumerate(batch):
      waiting.result.set_result(_row(result, i))


def _good_size(waiting: int) -> int:
  """How many of so many to score now, as the detector pads to a power of two.

  Nine images would cost as much as sixteen; eight go first, and the ninth follows.
  """
  padded = 1 << (waiting - 1).bit_length()
  return waiting if 4 * waiting >= 3 * padded else padded // 2


def _row(result: Result, i: int) -> Result:
  def at(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array[i : i + 1]

  rows = slice(i, i + 1)
  return Result(
    result.maps[rows], result.scores[rows], at(result.p_values), at(result.decisions)
  )
