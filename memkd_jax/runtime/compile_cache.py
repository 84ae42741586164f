"""Keeps compiled programs between runs, in a directory that no one else can write to."""

import hashlib
import os
import stat
import warnings
from pathlib import Path

import jax

# On CPU JAX 0.10.2 was seen to crash in reading its programs back.
_ON_CPU_SINCE = (0, 12)
_CPU_INFO = Path('/proc/cpuinfo')


def default_directory() -> Path:
  """$MEMKD_CACHE, or a folder of the user's cache."""
  if own := os.environ.get('MEMKD_CACHE'):
    return Path(own).expanduser()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return Path(base).expanduser() / 'memkd_jax' / 'programs'


def enable(directory: Path | None = None) -> str | None:
  """Turns on JAX's persistent compilation cache.

  It stays as it is where the user has set one. On CPU it is off before JAX 0.12, and each kind
  of processor has a folder of its own, for JAX does not look whether a program that it finds
  has instructions which this one lacks.

  What lies there is executable code, so the directory must be the user's own, and
  writable by nobody else.

  Args:
    directory: `default_directory` where None; made with mode 0700 if missing.

  Returns:
    Why the directory cannot be used, one sentence, or None.
  """
  if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
    return None
  directory = directory or default_directory()
  if jax.default_backend() == 'cpu':
    kind = processor()
    if kind is None or jax.__version_info__ < _ON_CPU_SINCE:
      return None
    directory = directory / f'cpu-{kind}'
    # Programs of bfloat16 call oneDNN, see `onednn`; JAX cannot write them down.
    warnings.filterwarnings('ignore', r'Error writing persistent compilation cache.*bad_alloc')
  try:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
  except OSError as error:
    return f'Compiled programs are not kept: {directory} cannot be used ({error.strerror}).'
  if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    return (
      f'Compiled programs are not kept: others may write to {directory}; remove it, or name '
      'another with MEMKD_CACHE.'
    )
  jax.config.update('jax_compilation_cache_dir', str(directory))
  return None


def processor() -> str | None:
  """A name for this kind of processor and its instructions; None where it cannot be told."""
  try:
    lines = _CPU_INFO.read_text().splitlines()
  except OSError:
    return None
  first = {
    name.strip(): value for name, _, value in (x.partition(':') for x in reversed(lines))
  }
  told = [first.get(name) for name in ('model name', 'flags', 'Features')]
  if not any(told):
    return None
  return hashlib.sha256(repr(told).encode()).hexdigest()[:12]
