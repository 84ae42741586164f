"""Writing files so that each is complete or absent."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Nothing else is called so: what a killed run left can be told from what is the user's.
_TEMPORARY = '.memkd_jax-'


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
  """Writes a file that is complete or absent, by way of a temporary one beside it.

  Args:
    path: the file; its folder is made if missing.

  Yields:
    The temporary path, of an empty file with the suffix of `path`. It is renamed to `path`
    where the body succeeds, and removed where it does not.

  Raises:
    OSError: the file cannot be written; the error's filename is `path`.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with naming(path):
    temporary = temporary_beside(path)
    # The files of `tempfile` are private to the user; a result is as readable as any new file.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
      yield temporary
      temporary.chmod(mode)  # safetensors puts a private file in the place of this one
      # A rename that reaches the disk before its content would leave an empty file
      # where the power fails.
      with temporary.open('rb') as file:
        os.fsync(file.fileno())
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
  """A new name beside `path`, with its suffix, that `remove_orphans` knows."""
  return path.parent / f'{_TEMPORARY}{secrets.token_hex(8)}{path.suffix}'


def is_temporary(name: str) -> bool:
  """Whether a file or folder of this name is none that is complete."""
  return name.startswith(_TEMPORARY)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
  """Names a file in an OSError of the body that names none, or a temporary one.

  Args:
    path: the file that the error is about.
  """
  try:
    yield
  except OSError as error:
    if error.filename is None or is_temporary(Path(str(error.filename)).name):
      error.filename = str(path)
    raise


def remove_orphans(folders: Iterable[Path]) -> None:
  """Removes the temporary files and folders that killed processes left.

  Args:
    folders: folders in which no other process writes; they need not exist.
  """
  for folder in folders:
    for path in folder.glob(f'{_TEMPORARY}*'):
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
  """Writes UTF-8 text, complete or not at all."""
  with atomic_write(path) as temporary:
    # File names may hold what is no UTF-8, and a page must not be lost for that.
    temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def write_json(path: Path | str, value: Any) -> None:
  """Writes indented JSON, complete or not at all; NaN is refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
