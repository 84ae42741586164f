"""Where a teacher is when nobody says so: here, in the user's cache, or on the server."""

import os
from contextlib import ExitStack
from pathlib import Path

from memkd_jax.errors import UserError
from memkd_jax.files import atomic, lock
from memkd_jax.teachers import conversion, download

AUTO = 'auto'


def locate(source: str, arch: str) -> str:
  """The path of a teacher; one that is named stays as it is.

  Args:
    source: a path or the name of a teacher, or 'auto' for `weights/<arch>.safetensors` below
      the working directory where that is there, and else the file of the user's cache, which
      is downloaded and folded if it is missing.
    arch: the network's name, 'resnet18' for example.

  Raises:
    UserError: 'auto' finds nothing, and nothing can be downloaded.
    OSError: the disk is full.
  """
  if source != AUTO:
    return source
  own = Path('weights', f'{arch}.safetensors').absolute()
  return str(own if own.is_file() else fetch(arch))


def folder() -> Path:
  """The folder of the user's cache: memkd_jax/teachers below $XDG_CACHE_HOME or ~/.cache."""
  base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  # Of a user without a home ~ stays as it is, and becomes a folder here.
  return Path(os.path.expanduser(base)).absolute() / 'memkd_jax' / 'teachers'


def fetch(arch: str) -> Path:
  """The file of the cache, made if it is missing, by one process however many ask for it.

  Args:
    arch: the network's name, 'resnet18' for example.

  Raises: see `locate`.
  """
  if arch not in download.FILES:
    raise UserError(
      f'--config.model.teacher_weights=auto: no ImageNet weights of {arch} are known; name a '
      'file there.'
    )
  path = folder() / f'{arch}.safetensors'
  if path.is_file():
    return path
  with ExitStack() as stack:
    try:
      path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
      stack.enter_context(lock.in_turn(path.parent))
    except OSError as error:
      raise UserError(
        f'The teacher cannot be kept in {path.parent} ({error.strerror}); {_elsewhere(arch)}'
      ) from error
    if not path.is_file():  # another process may have made it in the meantime
      atomic.remove_orphans([path.parent])
      source = download.imagenet_weights(arch, path)
      conversion.convert(source, arch, path)
      source.unlink()
  return path


def _elsewhere(arch: str) -> str:
  return (
    f'name another folder with XDG_CACHE_HOME, or run `memkd weights --arch={arch} '
    f'--out=weights/{arch}.safetensors`, which is looked for first.'
  )
