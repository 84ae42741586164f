"""SIGTERM and SIGINT end a run without losing a step.

While steps are being taken a signal waits for the end of the step, which is then saved. At
other times there is nothing to save, and `Interrupted` is raised at once. A second signal ends
the process there and then.

The signals of a process come to its main thread. Other threads, and other processes of the same
run, stop where they ask: after each step, and by `raise_if_asked`. Several processes of a run
stop at the same place, so a signal to one of them always waits until all ask.
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
  """The signal that came; one for the whole process, as signals are."""

  name: str | None = None  # the first signal's
  waiting: int = 0  # threads in which it waits for the end of a step
  changing = threading.Lock()  # of `waiting`


class _Together:
  """What several processes that run as one have agreed on; see `share`."""

  tell: Callable[[], None] | None = None
  agree: Callable[[], bool] | None = None
  agreed: bool = False


def share(tell: Callable[[], None], agree: Callable[[], bool]) -> None:
  """Makes a signal to one of several processes one to all of them.

  Args:
    tell: tells the others, from any thread, that a signal came.
    agree: whether all are to stop here; every process asks at the same places.
  """
  _Together.tell, _Together.agree = tell, agree


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
    _Asked.name, _Together.agreed = None, False


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
  """Lets signals wait for the end of a step; raises `Interrupted` at the end if one came.

  Several threads may be within at once.

  Gives:
    `stop_after`, to be asked once after each step: whether it is to be the last one.
  """
  _count(1)  # before asking: what comes in between would end the main thread alone
  try:
    raise_if_asked()
    yield _is_to_stop
  finally:
    _count(-1)
  raise_if_asked()


@contextmanager
def postponed() -> Iterator[None]:
  """Lets a signal wait for the end of the body, which says itself how long it takes.

  One that comes in its time is raised then; in one of several processes it is told to all,
  and all stop where they ask next.
  """
  before = _Asked.name
  _count(1)
  try:
    yield
  finally:
    _count(-1)
  if _Together.agree is None and before is None and _Asked.name is not None:
    raise Interrupted(_Asked.name)


def ask(reason: str) -> None:
  """Ends the run as a signal does, from any thread: where it asks next.

  Args:
    reason: words that stand for the signal's name.
  """
  _Asked.name = _Asked.name or reason
  if _Together.tell is not None:
    _Together.tell()


def take_back(reason: str) -> None:
  """Undoes `ask`, where the run has ended for that reason, and further ones may follow."""
  if _Asked.name == reason:
    _Asked.name = None


def raise_if_asked() -> None:
  """Raises `Interrupted` if a signal came, also one whose exception got lost.

  All of several processes must ask, or none.
  """
  if _is_to_stop():
    raise Interrupted(_Asked.name or 'a signal to another process')


@contextmanager
def passed_on() -> Iterator[None]:
  """Ends the other threads as a signal does, for the time in which they are waited for.

  What ends the main thread may be no signal that was handled: in a notebook Ctrl-C is a
  `KeyboardInterrupt`, of which other threads do not learn.
  """
  before = _Asked.name
  _Asked.name = before or 'SIGINT'
  try:
    yield
  finally:
    _Asked.name = before


def _is_to_stop() -> bool:
  if _Together.agree is None:
    return _Asked.name is not None
  # What was agreed on is said once.
  _Together.agreed = _Together.agreed or _Together.agree()
  return _Together.agreed


def _count(change: int) -> None:
  with _Asked.changing:
    _Asked.waiting += change


def _on_signal(number: int, frame: FrameType | None) -> None:
  _Asked.name = _Asked.name or signal.Signals(number).name
  if not _Asked.waiting and _Together.agree is None:
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
    if _Together.tell is not None:
      _Together.tell()
    if _Asked.waiting or _Together.tell is not None:
      name = signal.Signals(number).name
      todo = 'finishing the step, then saving' if _Asked.waiting else 'stopping all processes'
      with suppress(OSError):  # of a terminal that is gone
        print(f'\n{name}: {todo}; a second signal stops at once.', file=sys.stderr, flush=True)
