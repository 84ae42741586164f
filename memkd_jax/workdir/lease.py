"""Who may write to a run's place in a bucket, where there is nothing like a file's lock.

A lease is an object, .lease/<number>.json, that names its holder and is renewed while that
works. Only the highest number counts. Who wants the place writes the next one, which the
service lets one process do and no other; nobody ever writes another's. So who has been taken
for dead learns of it, whatever its clock says, by a number above its own.
"""

import datetime
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from memkd_jax.errors import UserError
from memkd_jax.files.bucket import Bucket

FOLDER = '.lease/'
TERM = 60.0  # seconds without a renewal, after which the holder counts as dead
RENEWAL = 15.0  # seconds from one renewal to the next
_GLANCE = 2.0  # seconds between two looks at a lease that may be a dead one's


class Found(NamedTuple):
  """The lease that is there.

  Attributes:
    number: number of the lease's object; 0 where there was never one.
    content: 'owner', 'process', 'renewed', 'ended'; empty where it cannot be read.
  """

  number: int
  content: dict[str, Any]

  @property
  def free(self) -> bool:
    """Whether nobody holds it."""
    return self.number == 0 or self.content.get('ended') is True


class Lease:
  """A lease on a place in a bucket, which one process at a time holds.

  Attributes:
    number: number of the lease's object, once it is held.
  """

  def __init__(self, bucket: Bucket, owner: str, say: Callable[[str], None] = print):
    """Asks for nothing yet.

    Args:
      bucket: the place that is to be held.
      owner: an id of this machine's copy of the run; two processes that have the same one
        keep each other out by other means.
      say: called with a sentence where the lease has to be waited for.
    """
    self._bucket, self._owner, self._say = bucket, owner, say
    self.number = 0
    self._ended = False
    self._writing = threading.Lock()  # of what is renewed in one thread and ended in another

  def look(self) -> Found:
    """The lease that is there now."""
    numbers = [_number(name) for name in self._bucket.find(FOLDER)]
    newest = max(numbers, default=0)
    return Found(newest, self._read(newest) if newest else {})

  def is_own(self, found: Found) -> bool:
    """Whether this machine's copy of the run holds a lease, perhaps by a process that died."""
    return not found.free and found.content.get('owner') == self._owner

  def acquire(self) -> None:
    """Takes the lease, once its holder has ended or has not renewed it for `TERM` seconds.

    Raises:
      UserError: another process holds it, and is at work.
    """
    while True:
      found = self.look()
      if self.is_own(found):
        self.number = found.number
        self.renew()
        return
      if not found.free:
        self._outlast(found)
      self.number = found.number + 1
      # A process that came late may write a number that was given and removed long ago.
      if self._bucket.create(_name(self.number), self._content()) and not self.is_lost():
        break
    self._bucket.remove(
      _name(n) for n in map(_number, self._bucket.find(FOLDER)) if n < self.number
    )

  def renew(self) -> None:
    """Says that the holder is at work, until it has said that it is not."""
    with self._writing:
      if not self._ended:
        self._bucket.write(_name(self.number), self._content())

  def is_lost(self) -> bool:
    """Whether another process has taken the lease."""
    return any(_number(name) > self.number for name in self._bucket.find(FOLDER))

  def end(self) -> None:
    """Lets the next one in at once."""
    with self._writing:
      self._ended = True
      self._bucket.write(_name(self.number), self._content(ended=True))

  def _outlast(self, found: Found) -> None:
    """Returns when a lease was not renewed for its term, by the clock of this machine alone."""
    who = f'{found.content.get("process")}, at {found.content.get("renewed")}'
    self._say(
      f'Note: {self._bucket.url} was in use (by {who}); waiting {TERM:.0f} seconds to see '
      'whether it still is.'
    )
    since = time.monotonic()
    while time.monotonic() - since < TERM:
      time.sleep(_GLANCE)
      now = self.look()
      if now.free and now.number == found.number:
        return
      if now != found:
        raise UserError(
          f'{self._bucket.url} is in use by {now.content.get("process")}; wait until that has '
          'ended, or choose another --workdir.'
        )

  def _read(self, number: int) -> dict[str, Any]:
    try:
      content = json.loads(self._bucket.read(_name(number)) or b'')
    except ValueError:
      return {}
    return content if isinstance(content, dict) else {}

  def _content(self, ended: bool = False) -> bytes:
    facts = {
      'owner': self._owner,
      'process': f'process {os.getpid()} on {platform.node()}',
      'renewed': datetime.datetime.now(datetime.UTC).isoformat(timespec='microseconds'),
      'ended': ended,
    }
    return json.dumps(facts, indent=2).encode()


def _name(number: int) -> str:
  return f'{FOLDER}{number:08d}.json'


def _number(name: str) -> int:
  stem = name.removeprefix(FOLDER).removesuffix('.json')
  return int(stem) if stem.isdecimal() else 0
