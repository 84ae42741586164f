"""Seeded damage: to bytes, to JSON values, and to what stands where a file is expected."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 30_000, 65_500, 2**31 - 1, 2**31)
_EXTREMES += (2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = (b'\0', b'\xff\xfe', b'\xed\xa0\x80', b'\r', b'\n\n', b'"', b'\x1b[2J', b'{' * 50)

_ODD_VALUES: tuple[Any, ...] = (None, True, False, '', 'x', '\ud800', '\0', 'a' * 9999, -1, 2)
_ODD_VALUES += (0.5, 1e300, 10**30, float('nan'), float('inf'), float('-inf'), [], {}, [[]])
_ODD_VALUES += ([None], ['a', 1], {'a': {'b': []}})


def truncate(rng: random.Random, content: bytes) -> bytes:
  return content[: rng.randrange(len(content))]


def flip(rng: random.Random, content: bytes) -> bytes:
  damaged = bytearray(content)
  for _ in range(rng.choice((1, 1, 1, 2, 8))):
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
  return bytes(damaged)


def blank(rng: random.Random, content: bytes) -> bytes:
  """Zeros in place of a stretch, as a disk leaves them that lost its power."""
  begin = rng.randrange(len(content))
  end = min(begin + rng.choice((1, 8, 64, 512, 4096)), len(content))
  return content[:begin] + bytes(end - begin) + content[end:]


def scramble(rng: random.Random, content: bytes) -> bytes:
  begin = rng.randrange(len(content))
  end = min(begin + rng.randrange(1, 64), len(content))
  return content[:begin] + rng.randbytes(end - begin) + content[end:]


def cut_out(rng: random.Random, content: bytes) -> bytes:
  begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
  return content[:begin] + content[end:]


def repeat(rng: random.Random, content: bytes) -> bytes:
  begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
  return content[:end] + content[begin:]


def insert(rng: random.Random, content: bytes) -> bytes:
  at = rng.randrange(len(content) + 1)
  return (
    content[:at] + rng.choice((*_TEXTS, rng.randbytes(rng.randrange(1, 99)))) + content[at:]
  )


def overwrite_number(rng: random.Random, content: bytes) -> bytes:
  """An extreme number, mostly in the header, of any size and byte order."""
  width = rng.choice((1, 2, 4, 8))
  number = rng.choice(_EXTREMES) % 256**width
  reach = len(content) if rng.random() < 0.3 else min(len(content), 200)
  at = rng.randrange(max(reach - width, 1))
  return (
    content[:at] + number.to_bytes(width, rng.choice(('big', 'little'))) + content[at + width :]
  )


def empty(rng: random.Random, content: bytes) -> bytes:
  return b''


def only_zeros(rng: random.Random, content: bytes) -> bytes:
  return bytes(len(content))


ANY_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
  truncate,
  truncate,
  flip,
  flip,
  flip,
  blank,
  scramble,
  cut_out,
  repeat,
  insert,
  overwrite_number,
  overwrite_number,
  empty,
  only_zeros,
)


def splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
  """The beginning of one file and the end of another."""
  return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def damage_json(rng: random.Random, value: Any) -> bytes:
  """Another value, type, name or depth somewhere in a JSON document, as text."""
  document = json.loads(json.dumps(value))
  parents = [node for node in _nodes(document) if isinstance(node, dict | list) and node]
  parent = rng.choice(parents)
  key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
  action = rng.choice(('replace', 'replace', 'replace', 'remove', 'rename', 'deep', 'long'))
  if action == 'remove':
    del parent[key]
  elif action == 'rename' and isinstance(parent, dict):
    parent[rng.choice(('', 'x', '\0', '\ud800', 'a' * 5000, key + ' '))] = parent.pop(key)
  elif action == 'deep':
    return b'[' * 200_000
  elif action == 'long':
    parent[key] = 'HERE'
    digits = '9' * rng.choice((30, 400, 5000))
    return json.dumps(document).replace('"HERE"', digits).encode()
  else:
    parent[key] = rng.choice(_ODD_VALUES)
  return json.dumps(document).encode()


def _nodes(value: Any) -> list[Any]:
  children = (
    value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  )
  return [value, *(node for child in children for node in _nodes(child))]


# What is not a file, where a file is expected.
STAND_INS = ('pipe', 'folder', 'loop', 'dangling', 'device', 'unreadable', 'missing')


def put(path: Path, content: bytes) -> None:
  """Writes a file in place of whatever is there."""
  if path.is_symlink() or path.exists():
    remove(path)
  path.write_bytes(content)


def remove(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    path.rmdir()
  else:
    path.unlink()


def stand_in(kind: str, path: Path) -> None:
  """Puts something else in place of a file."""
  remove(path)
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'folder':
    path.mkdir()
  elif kind == 'loop':
    path.symlink_to(path)
  elif kind == 'dangling':
    path.symlink_to(path.with_name('nowhere'))
  elif kind == 'device':
    path.symlink_to('/dev/zero')
  elif kind == 'unreadable':
    path.write_bytes(b'')
    path.chmod(0)
