"""A run's place in a bucket, and the folder of this machine in which the run is at work.

Nothing in a bucket can be locked, appended to or renamed, so a run writes to a folder of this
machine, as it always does, and what it has written is copied to the bucket in the background:
at each checkpoint, model and result, and at the end. The order is such that a run can go on
from what lies in the bucket: what is referred to comes first, and what a new file replaces goes
last. A training's first checkpoint has none before it while it is copied.

Below `home()`, for each place a folder with
  folder/      the run
  mirror.json  what of it lies in the bucket, and under which lease it was copied from there
  id           tells this copy from those of other machines
"""

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from memkd_jax import errors
from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic, lock, model
from memkd_jax.files.bucket import Bucket, BucketError, Object, is_url
from memkd_jax.files.reading import read_json
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.wording import counted
from memkd_jax.workdir.lease import RENEWAL, Lease

# They say that something else is there: copied last, and removed first.
_MARKERS = ('config.json', model.FACTS, 'result.json')
_LOGS = ('.jsonl',)  # not copied for their own sake alone
_EVENTS = 'tensorboard'
_OF_MODELS = ('config.json', model.FACTS, model.TENSORS)
_HIDDEN = ('.lock', '.lease')
_UNFINISHED = '.orbax-checkpoint-tmp'
_EVERY = 3.0  # seconds from one look for new files to the next
_AT_THE_END = 300.0  # seconds for which the last copy is tried

Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change


def home() -> Path:
  """The folder of the user's cache: memkd_jax/workdirs below $XDG_CACHE_HOME or ~/.cache."""
  base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return Path(os.path.expanduser(base)).absolute() / 'memkd_jax' / 'workdirs'


@contextmanager
def opened(workdir: Path | str) -> Iterator[Path]:
  """The folder in which to write what is to lie in `workdir`, a folder or a place in a bucket.

  All processes of a run call it; the first one alone copies.

  Raises:
    UserError: another machine is at work there, or has taken it over in the meantime; the
      bucket cannot be used; or it could not be reached at the end, when what was written
      stays in the folder that the message names.
  """
  if not is_url(workdir):
    yield Path(workdir).expanduser()
    return
  with hosts.raise_together():
    mirror = Mirror(str(workdir))
  with hosts.held_by_main(mirror.held()):
    yield mirror.folder


def copy_of_models(workdir: Path | str) -> Path:
  """A folder with the trained models of `workdir`, to be read alone.

  Args:
    workdir: a folder, which is given back, or a place in a bucket, whose models are copied
      where they have changed.

  Raises:
    UserError: the bucket cannot be read.
  """
  if not is_url(workdir):
    return Path(workdir).expanduser()
  mirror = Mirror(str(workdir), 'models')
  mirror.home.mkdir(parents=True, exist_ok=True)
  with lock.in_turn(mirror.home):
    atomic.remove_orphans([mirror.home])
    mirror.pull(lambda name: PurePosixPath(name).name in _OF_MODELS and name.count('/') <= 2)
  return mirror.folder


class Mirror:
  """Copies between a run's folder and its place in a bucket.

  Attributes:
    home: of this copy.
    folder: the run's.
  """

  def __init__(self, url: str, purpose: str = ''):
    """Looks at nothing yet.

    Args:
      url: the place.
      purpose: what this copy is for, if not for a run.

    Raises:
      UserError: see `Bucket`.
    """
    self._bucket = Bucket(url)
    key = hashlib.sha256(self._bucket.url.encode()).hexdigest()[:12]
    self.home = home() / '-'.join(filter(None, (PurePosixPath(url).name, key, purpose)))
    self.folder = self.home / 'folder'
    for path in (self.folder, self.home):
      errors.show_as(path, self._bucket.url)
    self._known: dict[str, tuple[int, int, str]] = {}  # what lies in the bucket: stamp, tag
    self._pulled_under = 0  # the number of the lease
    self._lost = False
    self._told = ''

  @contextmanager
  def held(self) -> Iterator[None]:
    """Keeps others out of the place; its folder is as the place at the start, and at the end
    the place as its folder.

    Errors as `opened`.
    """
    try:
      with lock.hold(self.home):
        self._read_state()
        lease = Lease(self._bucket, self._owner())
        left = lease.look()
        lease.acquire()
        # Where a process of this machine died, its folder is ahead of the bucket.
        ahead = left.number == lease.number == self._pulled_under
        if not ahead:
          self.folder.mkdir(exist_ok=True)
          self.pull()
          self._pulled_under = lease.number
          self._write_state()
        with self._at_work(lease):
          yield
    except BucketError as error:
      raise UserError(explain(error).rstrip('.') + '.') from error

  @contextmanager
  def _at_work(self, lease: Lease) -> Iterator[None]:
    stop = threading.Event()
    tasks = ((RENEWAL, lambda: self._renew(lease)), (_EVERY, self.push))
    threads = [
      threading.Thread(target=self._repeat, args=(stop, *task), name='bucket', daemon=True)
      for task in tasks
    ]
    for thread in threads:
      thread.start()
    try:
      yield
    finally:
      with interrupt.postponed():
        stop.set()
        for thread in threads:
          thread.join()
        self._finish(lease)

  def _finish(self, lease: Lease) -> None:
    self._bucket.patience = _AT_THE_END
    try:
      self._lost = self._lost or lease.is_lost()
      if not self._lost:
        self.push(last=True)
        lease.end()
    except BucketError as error:
      raise UserError(
        f'{explain(error)}; what the run has written is complete on this machine alone, in its '
        'cache. The same command here copies it, and goes on.'
      ) from error
    if self._lost:
      raise UserError(
        f'{self._bucket.url} was taken over by another process, since for some time this one '
        'could not say that it was at work; that one goes on from what was copied by then.'
      )

  def _renew(self, lease: Lease) -> None:
    if self._lost:
      return
    if lease.is_lost():
      self._lost = True
      interrupt.ask('the loss of its place in the bucket')
    else:
      lease.renew()

  def _repeat(self, stop: threading.Event, pause: float, function: Callable[[], None]) -> None:
    while not stop.wait(pause):
      try:
        function()
        self._told = ''
      except (OSError, UserError) as error:
        # At the end it counts; until then there are further attempts.
        if not self._told:
          self._say(f'Note: {explain(error).rstrip(".")}; the run goes on, and copies later.')
        self._told = explain(error)

  def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Makes the folder what the place is.

    Args:
      wanted: whether an object is to be copied, by its name.

    Raises:
      BucketError: the bucket cannot be reached.
      UserError: it refuses.
      OSError: the folder cannot be written.
    """
    self._read_state()
    there = {
      name: found
      for name, found in self._bucket.find().items()
      if not _is_hidden(name) and wanted(name)
    }
    here = _scan(self.folder)
    for name in here.keys() - there.keys():
      (self.folder / name).unlink()
    new = {
      name: found
      for name, found in there.items()
      if name not in here or self._known.get(name) != (*here[name], found.tag)
    }
    if new:
      size = sum(found.size for found in new.values())
      self._say(
        f'Copying {counted(len(new), "file")} ({size / 1e6:.0f} MB) from {self._bucket.url} ...'
      )
    self._download(new)
    stamps = _scan(self.folder)
    self._known = {name: (*stamps[name], found.tag) for name, found in there.items()}
    self._write_state()

  def push(self, last: bool = False) -> None:
    """Makes the place what the folder is, if it has changed in more than its logs.

    Args:
      last: whether logs count as well.

    Raises: see `pull`.
    """
    if self._lost:
      return
    # Whoever writes a marker has written before what it speaks of.
    markers = {name: stamp for name, stamp in _scan(self.folder).items() if _is_marker(name)}
    stamps = _scan(self.folder)
    changed = {name for name, stamp in stamps.items() if self._known.get(name, ())[:2] != stamp}
    gone = self._known.keys() - stamps.keys()
    if not gone and all(_is_log(name) and not last for name in changed):
      return
    self._remove([name for name in gone if _is_marker(name)])
    # A model's facts are of its arrays: no moment may have the old ones beside new arrays.
    self._remove([name for name in self._facts_of(changed) if name in self._known])
    uploaded = self._upload(sorted(name for name in changed if not _is_marker(name)))
    complete = uploaded >= {name for name in changed if not _is_marker(name)}
    if complete:
      still = _scan(self.folder)
      uploaded |= self._upload(
        sorted(n for n in changed & markers.keys() if markers[n] == still.get(n))
      )
      self._remove([name for name in gone if not _is_marker(name)])
    there = self._bucket.find()
    for name in uploaded & there.keys():
      self._known[name] = (*stamps[name], there[name].tag)
    self._write_state()

  def _upload(self, names: list[str]) -> set[str]:
    return self._bucket.upload((name, self.folder / name) for name in names)

  def _remove(self, names: list[str]) -> None:
    self._bucket.remove(names)
    for name in names:
      del self._known[name]

  def _facts_of(self, names: Iterable[str]) -> list[str]:
    arrays = [PurePosixPath(name) for name in names if name.endswith(model.TENSORS)]
    return [str(path.with_name(model.FACTS)) for path in arrays]

  def _download(self, objects: dict[str, Object]) -> None:
    for name in objects:
      path = PurePosixPath(name)
      if path.is_absolute() or '..' in path.parts:
        raise UserError(f'{self._bucket.url} has an object named {name}; remove it.')
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
    files = {name: atomic.temporary_beside(self.folder / name) for name in objects}
    try:
      self._bucket.download(files.items())
      for name, file in files.items():
        if file.stat().st_size != objects[name].size:
          raise BucketError(f'{self._bucket.url}/{name} changed while it was read')
        file.replace(self.folder / name)
    finally:
      for file in files.values():
        file.unlink(missing_ok=True)

  def _owner(self) -> str:
    path = self.home / 'id'
    if not path.exists():
      atomic.write_text(path, secrets.token_hex(16))
    return path.read_text()

  def _read_state(self) -> None:
    try:
      state = read_json(self.home / 'mirror.json')
      known = {name: (*map(int, facts[:2]), facts[2]) for name, facts in state['files'].items()}
      self._known, self._pulled_under = known, int(state['lease'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
      self._known, self._pulled_under = {}, 0  # then all is copied

  def _write_state(self) -> None:
    state = {'lease': self._pulled_under, 'files': self._known}
    atomic.write_text(self.home / 'mirror.json', json.dumps(state))

  def _say(self, sentence: str) -> None:
    print(sentence, flush=True)


def _scan(folder: Path) -> dict[str, Stamp]:
  """The files below a folder that belong in the bucket, by their names."""
  found: dict[str, Stamp] = {}
  for root, folders, files in os.walk(folder):
    below = Path(root).relative_to(folder).as_posix()
    folders[:] = [name for name in folders if not _is_hidden(name)]
    for file in files:
      name = file if below == '.' else f'{below}/{file}'
      if _is_hidden(name):
        continue
      try:
        status = os.stat(os.path.join(root, file))
      except FileNotFoundError:  # removed in the meantime
        continue
      found[name] = status.st_size, status.st_mtime_ns
  return found


def _is_hidden(name: str) -> bool:
  return any(
    part in _HIDDEN or atomic.is_temporary(part) or _UNFINISHED in part
    for part in PurePosixPath(name).parts
  )


def _is_marker(name: str) -> bool:
  return PurePosixPath(name).name in _MARKERS


def _is_log(name: str) -> bool:
  return name.endswith(_LOGS) or _EVENTS in PurePosixPath(name).parts
