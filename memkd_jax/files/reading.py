"""Opening what others wrote: regular files alone, of bounded size, without waiting."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

# Bytes. Texts that this project reads have some kilobytes; VisA's split file has 1 MB.
MAX_TEXT = 64 * 2**20


def open_regular(path: Path | str) -> BinaryIO:
  """Opens a file for reading; a named pipe or a device is refused instead of waited for.

  Raises:
    OSError: it is missing, a broken link, unreadable, or not a regular file.
  """
  handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
      raise OSError(errno.EINVAL, 'Not a regular file', str(path))
    return os.fdopen(handle, 'rb')
  except BaseException:
    os.close(handle)
    raise


def read_bytes(path: Path | str, limit: int) -> bytes:
  """Reads a whole file.

  Args:
    path: the file, which must be a regular one.
    limit: the largest size that is read, in bytes.

  Raises:
    OSError: see `open_regular`.
    ValueError: the file is larger.
  """
  with open_regular(path) as file:
    return read_stream(file, limit)


def read_stream(stream: Any, limit: int) -> bytes:
  """Reads the rest of a stream of bytes; raises ValueError where that exceeds `limit`."""
  content: bytes = stream.read(limit + 1)
  if len(content) > limit:
    raise ValueError(f'it has more than {limit:,} bytes')
  return content


def read_text(path: Path | str, limit: int = MAX_TEXT) -> str:
  """Reads UTF-8 text, with or without a byte-order mark; errors as `read_bytes`."""
  return read_bytes(path, limit).decode('utf-8-sig')


def read_json(path: Path | str) -> Any:
  """Reads JSON.

  Raises:
    OSError: see `open_regular`.
    ValueError: it is not JSON, not UTF-8, or nested too deeply.
  """
  return parse_json(read_text(path))


def parse_json(text: str) -> Any:
  """Parses JSON; raises ValueError alone. Numbers are finite, whole ones below 2**64."""
  try:
    return json.loads(
      text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
    )
  except RecursionError as error:
    raise ValueError('it is nested too deeply') from error


def _refuse_constant(name: str) -> Any:
  raise ValueError(f'it holds {name}')


def _bounded(digits: str) -> int:
  if len(digits) > 21 or abs(value := int(digits)) >= 2**64:
    raise ValueError(f'it holds {digits[:20]}..., which is too large')
  return value


def _finite(digits: str) -> float:
  value = float(digits)
  if value in (float('inf'), float('-inf')):
    raise ValueError(f'it holds {digits[:20]}, which is too large')
  return value
