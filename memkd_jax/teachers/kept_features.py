"""The teacher's features of images that several methods learn from, computed once for all."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from memkd_jax.files.digest import images_digest

_SHARE = 0.25  # of the memory that is free: fitting needs its own


@dataclasses.dataclass(frozen=True)
class _Entry:
  """Features of some images, [N, H_k, W_k, C_k] of stages 1 on, and what they cost."""

  stages: tuple[np.ndarray, ...]
  seconds: float


class _Saved(threading.local):
  """Of each thread its own, since tasks that run at once are timed by themselves."""

  seconds = 0.0


class KeptFeatures:
  """Keeps on the host what fits there.

  Several threads may ask at once.
  """

  def __init__(self) -> None:
    """Nothing is kept yet."""
    self._saved = _Saved()
    self._entries: dict[tuple[str, str], _Entry] = {}

  @property
  def saved_seconds(self) -> float:
    """How long it took to compute what was given to this thread again instead, in all.

    Who times a fit adds it, so that no method looks faster because another came first.
    """
    return self._saved.seconds

  def take(
    self,
    teacher: str,
    images: np.ndarray,
    depth: int,
    compute: Callable[[], Sequence[np.ndarray]],
    *,
    size: int,
    free: int,
  ) -> tuple[np.ndarray, ...] | None:
    """The features of stages 1 to `depth`; None, and nothing computed, where they do not fit.

    Args:
      teacher: tells the teacher and its dtype from others.
      images: the training images, uint8 [N, H, W, channels].
      depth: the number of stages whose features are wanted.
      compute: gives the features, [N, H_k, W_k, C_k] each, where they are not there.
      size: bytes that the features take.
      free: bytes of the host's memory, the same in all processes.
    """
    key = teacher, images_digest(images)
    entry = self._entries.get(key)
    if entry is not None and len(entry.stages) >= depth:
      self._saved.seconds += entry.seconds
      return entry.stages[:depth]
    if size > _SHARE * free:
      return None
    began = time.monotonic()
    stages = tuple(compute())
    self._entries[key] = _Entry(stages, time.monotonic() - began)
    return stages
