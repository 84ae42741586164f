"""What a finished checkpoint consists of: a list of its files with their sha256.

It is written last of all. A folder without one is incomplete, and one that differs
from it is damaged.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.files import atomic

# Of the folder as a whole: what lies in it, and what is in its metadata.
FORMAT = 1
_NAME = 'manifest.json'


def write(folder: Path) -> None:
  """Lists what is in `folder`, which must not change afterwards.

  Raises:
    OSError: a file cannot be read, or the list cannot be written.
  """
  content = {
    'format': FORMAT,
    'files': {
      path.relative_to(folder).as_posix(): _sha256(path)
      for path in sorted(folder.rglob('*'))
      if path.is_file()
    },
  }
  atomic.write_json(folder / _NAME, content | {'sha256': _own_sha256(content)})


def exists(folder: Path) -> bool:
  """Whether `write` came to its end."""
  return (folder / _NAME).is_file()


def find_damage(folder: Path) -> str | None:
  """Compares a folder with its manifest.

  Files that came later (a file browser's, say) are of no account.

  Args:
    folder: for which `exists` holds.

  Returns:
    The first difference as a clause, or None.

  Raises:
    UserError: the manifest is of a later format, of which nothing is known here.
    OSError: a file is there but cannot be read.
  """
  try:
    content = json.loads((folder / _NAME).read_text(encoding='utf-8'))
    if content.pop('sha256') != _own_sha256(content):
      return f'{_NAME} differs from what was written'
    version, listed = int(content['format']), dict(content['files'])
  except (ValueError, KeyError, TypeError, AttributeError):
    return f'{_NAME} cannot be read'
  if version > FORMAT:
    raise UserError(
      f'{folder} was written by a newer memkd_jax (checkpoint format {version}, and this one '
      f'knows {FORMAT}); update memkd_jax, or choose another --workdir.'
    )
  for name, expected in listed.items():
    path = folder / name
    if not path.is_file():
      return f'{name} is missing'
    if _sha256(path) != expected:
      return f'{name} differs from what was written'
  return None


def _sha256(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _own_sha256(content: dict[str, Any]) -> str:
  """Of the manifest itself, so that a flipped bit in it is not taken for a new format."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
