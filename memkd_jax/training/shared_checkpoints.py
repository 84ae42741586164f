"""The checkpoints of a run of several processes or of several threads."""

from pathlib import Path
from types import TracebackType
from typing import Any

from memkd_jax.runtime import hosts
from memkd_jax.training.checkpoint import Checkpoints


class SharedCheckpoints:
  """`Checkpoints` that only the first process reads and writes.

  The folder need not be seen by the others: what is read there is sent to them. All
  processes must make the same calls in the same order. Threads may each have their own.
  """

  def __init__(self, folder: Path):
    self._own: Checkpoints | None = None
    with hosts.raise_together():
      if hosts.is_main():
        self._own = Checkpoints(folder)

  def __enter__(self) -> 'SharedCheckpoints':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if error is not None:  # which the others may not have
      if self._own is not None:
        self._own.__exit__(kind, error, trace)
      return
    with hosts.raise_together():
      if self._own is not None:
        self._own.__exit__(kind, error, trace)

  def latest_step(self) -> int | None:
    """See `Checkpoints.latest_step`."""
    return hosts.on_main(lambda: self._first.latest_step())

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """See `Checkpoints.save`; the state of the first process is saved."""
    with hosts.raise_together():
      if self._own is not None:
        self._own.save(step, state, metadata)

  def wait(self) -> None:
    """See `Checkpoints.wait`."""
    with hosts.raise_together():
      if self._own is not None:
        self._own.wait()

  def read_metadata(self) -> dict[str, Any]:
    """See `Checkpoints.read_metadata`."""
    return hosts.on_main(lambda: self._first.read_metadata())

  def restore(self, like: Any) -> Any:
    """See `Checkpoints.restore`."""
    state = like
    with hosts.raise_together():
      if self._own is not None:
        state = self._own.restore(like)
    return hosts.broadcast_from_main(state)

  @property
  def _first(self) -> Checkpoints:
    assert self._own is not None
    return self._own
