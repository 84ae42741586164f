"""What ends a run in one sentence."""

import errno
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAMES: dict[str, str] = {}  # of folders, see `show_as`
_REMEDIES = {
  errno.EACCES: 'give this user access to it',
  errno.EPERM: 'give this user access to it',
  errno.ENOSPC: 'make room there, and run the same command again',
  errno.EDQUOT: 'make room there, and run the same command again',
  errno.EROFS: 'choose a place that can be written to',
}


class UserError(Exception):
  """Something in the input, not in the program, is wrong.

  The message is one clear sentence that names the file or the field and the
  remedy; `main` prints it without a traceback and exits with code 1.
  """


class DiskFullError(UserError):
  """The disk of another process of the same run is full."""


def show_as(folder: Path | str, name: str) -> None:
  """Has `shown` and `explain` call a folder by the name that its user knows."""
  _NAMES[str(folder)] = name


def shown(text: Path | str) -> str:
  """A path, or a text with paths, in which folders have the names that `show_as` gave them."""
  text = str(text)
  for folder, name in sorted(_NAMES.items(), reverse=True):  # the longer one first
    text = text.replace(folder, name)
  return text


def explain(error: Exception) -> str:
  """One line for a `UserError` or for an `OSError`, with its remedy where there is one.

  A name that others chose can neither break the line nor command the terminal.
  """
  text = _sentence(error)
  # What is full or closed is a folder of this machine, whatever the user calls it.
  if not (isinstance(error, OSError) and error.errno in _REMEDIES):
    text = shown(text)
  return ''.join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
  return character.encode('unicode_escape').decode('ascii')


def _sentence(error: Exception) -> str:
  if isinstance(error, OSError) and error.filename and error.errno in _REMEDIES:
    return f'{error.filename}: {error.strerror}; {_REMEDIES[error.errno]}.'
  return str(error)


def is_disk_full(error: BaseException) -> bool:
  """Whether going on with something else would fail in the same way."""
  return isinstance(error, DiskFullError) or (
    isinstance(error, OSError) and error.errno in _DISK_FULL
  )
