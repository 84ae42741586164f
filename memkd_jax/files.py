"""Writing files so that each is complete or absent."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# It can only be read by setting it, which threads must not do.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
  """Gives a temporary path beside `path` and renames it to `path` on success."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem}-', suffix=path.suffix)
  os.close(handle)
  temporary = Path(name)
  try:
    yield temporary
    # mkstemp is private to the user; a result is as readable as any new file.
    temporary.chmod(0o666 & ~_UMASK)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
  """Writes UTF-8 text, complete or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def write_json(path: Path | str, value: Any) -> None:
  """Writes indented JSON, complete or not at all; NaN is refused."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
