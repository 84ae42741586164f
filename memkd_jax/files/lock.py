"""One process for one folder."""

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memkd_jax.errors import UserError

_NAME = '.lock'
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
  """Keeps other processes out of `folder`, which is made if missing.

  The kernel lets go of the lock when its process ends, however it ends, so the file
  that stays behind keeps nobody out. It says who has it.

  Raises:
    UserError: another process holds it, or `folder` cannot be written.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
  except OSError as error:
    raise UserError(f'Cannot use {folder} as --workdir: {error.strerror}.') from error
  try:
    _acquire(handle, folder)
    yield
  finally:
    os.close(handle)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
  """Lets one process after the other into `folder`, which is there, and waits for its turn.

  Raises:
    OSError: `folder` cannot be written.
  """
  handle = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  try:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'Note: waiting for another process that is at work in {folder}.', flush=True)
      fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
      if error.errno not in _UNSUPPORTED:
        raise
    yield
  finally:
    os.close(handle)


def _acquire(handle: int, folder: Path) -> None:
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.pread(handle, 1000, 0).decode(errors='replace').strip() or 'another process'
    raise UserError(
      f'{folder} is in use by {holder}; wait until that has ended, or choose another --workdir.'
    ) from error
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise
    print(
      f'Note: the file system of {folder} has no locks; see to it that no other process uses '
      'that folder.',
      flush=True,
    )
    return
  os.ftruncate(handle, 0)
  os.pwrite(handle, f'process {os.getpid()} on {platform.node()}\n'.encode(), 0)
