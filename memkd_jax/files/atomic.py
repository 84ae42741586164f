"""Writing files so that each is complete or absent."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Nothing else is called so: what a killed run left can be told from what is the user's.
_TEMPORARY = '.memkd_jax-'
# It can only be read by setting it, which threads must not do.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
  """Gives a temporary path beside `path` and renames it to `path` on success.

  Raises:
    OSError: it cannot be written; its filename is `path`.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with naming(path):
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
      yield temporary
      # mkstemp is private to the user; a result is as readable as any new file.
      temporary.chmod(0o666 & ~_UMASK)
      # A rename that reaches the disk before its content would leave an empty file
      # where the power fails.
      with temporary.open('rb') as file:
        os.fsync(file.fileno())
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
  """Puts `path` in the place of no name, or of a temporary one, in an OSError."""
  try:
    yield
  except OSError as error:
    if error.filename is None or Path(str(error.filename)).name.startswith(_TEMPORARY):
      error.filename = str(path)
    raise


def remove_orphans(folders: Iterable[Path]) -> None:
  """Removes the temporary files that killed processes left.

  Args:
    folders: in which no other process writes.
  """
  for folder in folders:
    for path in folder.glob(f'{_TEMPORARY}*'):
      path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
  """Writes UTF-8 text, complete or not at all."""
  with atomic_write(path) as temporary:
    # File names may hold what is no UTF-8, and a page must not be lost for that.
    temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def write_json(path: Path | str, value: Any) -> None:
  """Writes indented JSON, complete or not at all; NaN is refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
