"""SIGTERM and SIGINT end a run without losing a step.

While steps are being taken a signal waits for the end of the step, which is then
saved. At other times there is nothing to save, and `Interrupted` is raised at once.
A second signal ends the process there and then.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# EX_TEMPFAIL of sysexits.h, "try again later": unlike 130 and 143, which a shell shows
# for a process that a signal killed, it says that all was saved.
EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
  """A signal ended the run; the same command resumes it."""


class _Asked:
  """What the process was asked for; one for the process, as its signals are."""

  name: str | None = None  # of the first signal
  waits: bool = False  # for the end of a step


@contextmanager
def handled() -> Iterator[None]:
  """Handles both signals as the module says, in the main thread."""
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  before = {number: signal.signal(number, _on_signal) for number in _SIGNALS}
  wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  # Python handles a signal when the main thread is back from a compilation or a step,
  # perhaps after minutes; another thread learns of it at once.
  watcher = threading.Thread(target=_watch, args=(reader,), name='signals', daemon=True)
  watcher.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
      signal.signal(number, handler)
    writer.close()
    watcher.join()
    reader.close()
    _Asked.name, _Asked.waits = None, False


@contextmanager
def deferred() -> Iterator[Callable[[int], bool]]:
  """Lets signals wait for the end of a step; raises `Interrupted` at the end if one came.

  Gives:
    `stop_after`, to be asked once after each step.
  """
  raise_if_asked()
  _Asked.waits = True
  try:
    yield stop_after
  finally:
    _Asked.waits = False
  raise_if_asked()


def stop_after(step: int) -> bool:
  """Whether `step` is to be the last one of this process.

  This is the place where several processes would agree: all must save the same step.
  (`jax.experimental.multihost_utils.reached_preemption_sync_point(step)` does.)

  Args:
    step: number of steps taken.
  """
  del step  # one process alone is free to stop after any
  return _Asked.name is not None


def raise_if_asked() -> None:
  """Raises `Interrupted` if a signal came, also one whose exception got lost."""
  if _Asked.name is not None:
    raise Interrupted(_Asked.name)


def _on_signal(number: int, frame: FrameType | None) -> None:
  _Asked.name = _Asked.name or signal.Signals(number).name
  if not _Asked.waits:
    raise Interrupted(_Asked.name)


def _watch(reader: socket.socket) -> None:
  """Says what the first signal does, and ends the process at the second."""
  came = 0
  while received := reader.recv(1):
    number = received[0]
    if number not in _SIGNALS:
      continue
    came += 1
    if came > 1:
      os._exit(128 + number)  # as a shell shows it for a process that died of the signal
    if _Asked.waits:
      name = signal.Signals(number).name
      with suppress(OSError):  # of a terminal that is gone
        print(
          f'\n{name}: finishing the step, then saving; a second signal stops at once.',
          file=sys.stderr,
          flush=True,
        )
