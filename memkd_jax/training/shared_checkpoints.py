"""The checkpoints of a run of several processes or of several threads."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from memkd_jax.runtime import hosts
from memkd_jax.training import checkpoint
from memkd_jax.training.checkpoint import Checkpoints


class SharedCheckpoints:
  """`Checkpoints` that only the first process reads and writes.

  The folder need not be seen by the others: what is read there is sent to them. All
  processes must make the same calls in the same order. Threads may each have their own.
  """

  def __init__(self, folder: Path):
    with hosts.raise_together():
      self._own = Checkpoints(folder) if hosts.is_main() else None

  def __enter__(self) -> 'SharedCheckpoints':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    # An error may be of this process alone: the others would not come to talk of it.
    with hosts.raise_together() if error is None else nullcontext():
      if self._own is not None:
        self._own.__exit__(kind, error, trace)

  def latest_step(self) -> int | None:
    """See `Checkpoints.latest_step`."""
    return self._on_main(Checkpoints.latest_step)

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """See `Checkpoints.save`; the state of the first process is saved."""
    self._on_main(Checkpoints.save, step, state, metadata)

  def wait(self) -> None:
    """See `Checkpoints.wait`."""
    self._on_main(Checkpoints.wait)

  def read_metadata(self) -> dict[str, Any]:
    """See `Checkpoints.read_metadata`."""
    return self._on_main(Checkpoints.read_metadata)

  def restore(self, like: Any) -> Any:
    """See `Checkpoints.restore`."""
    with hosts.raise_together():
      state = like if self._own is None else self._own.restore(like)
    return hosts.broadcast_from_main(state)

  def _on_main(self, method: Callable[..., Any], *arguments: Any) -> Any:
    return hosts.on_main(lambda: method(self._own, *arguments))


def discard(folder: Path) -> None:
  """See `checkpoint.discard`."""
  hosts.on_main(lambda: checkpoint.discard(folder))
