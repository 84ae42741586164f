"""Objects of a bucket, gs:// or s3://, through fsspec: the only file that knows it."""

import importlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from memkd_jax.errors import UserError, is_disk_full

_T = TypeVar('_T')
# Of each protocol what fsspec needs, and the extra of this package that brings it.
_PACKAGES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}
# A `Path` has but one slash of the two.
_URL = re.compile(f'({"|".join(_PACKAGES)}):/+(.*)', re.DOTALL)
# What tells one content of an object from another, by the first that a service gives.
_TAGS = ('generation', 'etag', 'ETag', 'created', 'mtime')
_THREADS = 8
PATIENCE = 60.0  # seconds for which a request is repeated
_LONGEST_PAUSE = 10.0  # seconds
# No other attempt would do any better.
_REFUSED = ('Credentials', 'RefreshError', 'PermissionError', 'Forbidden', 'does not have')


class Object(NamedTuple):
  """What a bucket says of an object.

  Attributes:
    size: size of the object in bytes.
    tag: differs from that of any other content which had the name.
  """

  size: int
  tag: str


class BucketError(OSError):
  """A bucket could not be read or written, however often it was tried."""


def is_url(path: Path | str) -> bool:
  """Whether this names a place in a bucket, and not a folder."""
  return '://' in str(path) or _URL.fullmatch(str(path)) is not None


class Bucket:
  """The objects below one place of a bucket, by their names relative to it.

  A request that fails is repeated, with growing pauses, for `patience` seconds. What the
  service refuses is not: credentials that are missing, a bucket that there is none of.

  Attributes:
    url: the place, without a slash at its end.
    patience: seconds for which a request that fails is repeated.
  """

  def __init__(self, url: str, patience: float | None = None):
    """Connects to nothing yet.

    Args:
      url: the place, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.
      patience: seconds for which a request that fails is repeated; `PATIENCE` if None.

    Raises:
      UserError: the URL is of another kind, or the package for it is not installed.
    """
    found = _URL.fullmatch(url)
    protocol, path = found.groups() if found else ('', '')
    if not path.strip('/'):
      raise UserError(
        f'{url}: give a local folder, or a place in a bucket, gs://BUCKET/FOLDER or '
        's3://BUCKET/FOLDER.'
      )
    package, extra = _PACKAGES[protocol]
    try:
      importlib.import_module(package)
    except ImportError as error:
      raise UserError(f'{url} needs: pip install "memkd_jax[{extra}]".') from error
    import fsspec

    logging.getLogger(package).setLevel(logging.CRITICAL)  # what it logs is raised as well
    self.url = f'{protocol}://{path.strip("/")}'
    self.patience = PATIENCE if patience is None else patience
    self._prefix = path.strip('/') + '/'
    # Each listing is to tell what is there now, also what other machines have changed.
    self._service = fsspec.filesystem(protocol, use_listings_cache=False)

  def find(self, below: str = '') -> dict[str, Object]:
    """All objects, by name, sorted.

    Args:
      below: what the names begin with; '' for all objects.
    """

    def find() -> dict[str, Any]:
      self._service.invalidate_cache()
      try:
        found: dict[str, Any] = self._service.find(self._prefix + below, detail=True)
      except FileNotFoundError:
        return {}
      return found

    return {
      name.removeprefix('/').removeprefix(self._prefix): _describe(facts)
      for name, facts in sorted(self._attempt(find).items())
      if facts.get('type') == 'file' and not name.endswith('/')
    }

  def read(self, name: str) -> bytes | None:
    """The content of an object; None where there is none of that name."""
    try:
      return bytes(self._attempt(lambda: self._service.cat_file(self._prefix + name)))
    except FileNotFoundError:
      return None

  def write(self, name: str, content: bytes) -> None:
    """Writes an object, complete or not at all, in place of what there was."""
    with self._missing():
      self._attempt(lambda: self._service.pipe_file(self._prefix + name, content))

  def create(self, name: str, content: bytes) -> bool:
    """Writes an object unless there is one of that name, as one step of the service's.

    Args:
      name: name of the object, relative to the place.
      content: unlike what any other process would write, for that tells whose it is where
        an answer was lost on its way.

    Returns:
      Whether the object is this one.
    """

    def create() -> None:
      self._service.pipe_file(self._prefix + name, content, mode='create')

    try:
      with self._missing():
        self._attempt(create)
    except FileExistsError:
      return self.read(name) == content
    return True

  def upload(self, files: Iterable[tuple[str, Path]]) -> set[str]:
    """Writes objects from files, several at once, each complete or not at all.

    Returns:
      The names of the objects that were written: all but those whose file is gone.
    """
    written: set[str] = set()

    def put(name: str, path: Path) -> None:
      try:
        self._attempt(lambda: self._service.put_file(str(path), self._prefix + name))
        written.add(name)
      except FileNotFoundError:
        if path.exists():
          with self._missing():
            raise

    self._each(put, list(files))
    return written

  def download(self, files: Iterable[tuple[str, Path]]) -> None:
    """Writes files from objects, several at once; their folders are there."""

    def get(name: str, path: Path) -> None:
      self._attempt(lambda: self._service.get_file(self._prefix + name, str(path)))

    self._each(get, list(files))

  def remove(self, names: Iterable[str]) -> None:
    """Removes objects, several at once; those that are gone already do no harm."""

    def remove(name: str) -> None:
      with suppress(FileNotFoundError):
        self._attempt(lambda: self._service.rm_file(self._prefix + name))

    self._each(remove, [(name,) for name in names])

  def _each(self, function: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
      try:
        for future in as_completed([pool.submit(function, *those) for those in arguments]):
          future.result()
      except BaseException:
        pool.shutdown(cancel_futures=True)  # each would be as patient as this one was
        raise

  def _attempt(self, function: Callable[[], _T]) -> _T:
    """Calls a function until it succeeds or the patience has an end."""
    until = time.monotonic() + self.patience
    pause = 0.5
    while True:
      try:
        return function()
      except (FileNotFoundError, FileExistsError, UserError):
        raise
      # The services' own exceptions, and those of what carries them, have no class in common.
      except Exception as error:
        if is_disk_full(error):
          raise
        if any(word in repr(error) for word in _REFUSED):
          raise self._refused(error) from error
        if time.monotonic() + pause > until:
          raise BucketError(f'{self.url} cannot be reached ({_reason(error)})') from error
      # Not all machines that were cut off are to come back at the same time.
      time.sleep(pause * random.uniform(0.5, 1))
      pause = min(2 * pause, _LONGEST_PAUSE)

  @contextmanager
  def _missing(self) -> Iterator[None]:
    """What is not there, when something is written, is the bucket."""
    try:
      yield
    except FileNotFoundError as error:
      raise UserError(f'{self.url}: there is no such bucket; make it first.') from error

  def _refused(self, error: Exception) -> UserError:
    return UserError(
      f'{self.url}: access was refused ({_reason(error)}); log in to the service, and give '
      'this account the right to list, read, write and delete there.'
    )


def _describe(facts: dict[str, Any]) -> Object:
  tag = next((facts[key] for key in _TAGS if facts.get(key) is not None), '')
  return Object(int(facts.get('size') or 0), str(tag))


def _reason(error: BaseException) -> str:
  text = ' '.join(str(error).split()).rstrip('.')
  return (text or type(error).__name__)[:200]
