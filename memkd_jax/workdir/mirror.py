"""A run's place in a bucket, and the folder of this machine in which the run is at work.

Nothing in a bucket can be locked, appended to or renamed, so a run writes to a folder of this
machine, as it always does, and what it has written is copied to the bucket in the background:
at each checkpoint, model and result, and at the end. The order is such that a run can go on
from what lies in the bucket: what is referred to comes first, and what a new file replaces goes
last.

Below `home()`, for each place a folder with
  folder/      the run
  mirror.json  what of it lies in the bucket, and under which lease it was copied from there
  id           tells this copy from those of other machines
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from memkd_jax import errors, trackers
from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic, lock, model
from memkd_jax.files.bucket import Bucket, BucketError, Object, is_url
from memkd_jax.files.reading import read_json
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.wording import counted
from memkd_jax.workdir.lease import RENEWAL, Lease

# They say that something else is there: copied last, and removed before it.
_MARKERS = ('config.json', model.FACTS, 'result.json')
_CHECKPOINTS, _WHOLE = 'checkpoints', '_CHECKPOINT_METADATA'  # the marker of a checkpoint
# These go at once, for they are of a config that is no more; others once what replaces them is
# there.
_FIRST_TO_GO = ('config.json', 'result.json')
_REMOVED_ON_NFS = '.nfs'
_LOSS = 'the loss of its place in the bucket'
_LOGS = ('.jsonl',)  # not copied for their own sake alone
_OF_MODELS = ('config.json', model.FACTS, model.TENSORS)
_HIDDEN = ('.lock', '.lease')
_UNFINISHED = '.orbax-checkpoint-tmp'
_EVERY = 3.0  # seconds from one look for new files to the next
_READS = 5  # of models that change meanwhile
_AT_THE_END = 300.0  # seconds for which the last copy is tried

Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change


def home() -> Path:
  """The folder of the user's cache: memkd_jax/workdirs below $XDG_CACHE_HOME or ~/.cache."""
  base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return Path(os.path.expanduser(base)).absolute() / 'memkd_jax' / 'workdirs'


def local_folder(workdir: Path | str) -> Path:
  """The folder of this machine in which a run of `workdir` works; nothing need be there.

  Raises:
    UserError: it is a URL of another kind than those of buckets.
  """
  if not is_url(workdir):
    return Path(workdir).expanduser()
  return Mirror(str(workdir)).folder


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
    mirror.pull_models()
  return mirror.folder


class Mirror:
  """Copies between a run's folder and its place in a bucket.

  Attributes:
    home: this machine's folder of the copy and of what belongs to it.
    folder: the copy of the run's folder.
  """

  def __init__(self, url: str, purpose: str = ''):
    """Looks at nothing yet.

    Args:
      url: the place in a bucket, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.
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
        with _repeated(RENEWAL, lambda: _renew(lease)):
          # Where a process of this machine died, its folder is ahead of the bucket.
          if not left.number == lease.number == self._pulled_under:
            self.folder.mkdir(exist_ok=True)
            self.pull()
            self._pulled_under = lease.number
            self._write_state()
          try:
            with _repeated(_EVERY, lambda: self.push(lease)):
              yield
          finally:
            with interrupt.postponed():
              self._finish(lease)
    except BucketError as error:
      raise UserError(explain(error).rstrip('.') + '.') from error

  def _finish(self, lease: Lease) -> None:
    self._bucket.patience = _AT_THE_END
    try:
      self.push(lease, last=True)
      lost = lease.is_lost()
      if not lost:
        lease.end()
    except (BucketError, UserError) as error:
      raise UserError(
        f'{explain(error).rstrip(".")}; what the run has written is complete on this machine '
        f'alone, below {home()}. The same command here copies it, and goes on.'
      ) from error
    if lost:
      interrupt.take_back(_LOSS)
      raise UserError(
        f'{self._bucket.url} was taken over by another process, since for some time this one '
        'could not say that it was at work; that one goes on from what was copied by then.'
      )

  def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Makes the folder what the place is.

    Args:
      wanted: whether an object is to be copied, by its name.

    Raises:
      BucketError: the bucket cannot be reached.
      UserError: it refuses.
      OSError: the folder cannot be written.
    """
    there = self._listed(wanted)
    here = _scan(self.folder)
    for name in here.keys() - there.keys():
      (self.folder / name).unlink()
    for root, *_ in os.walk(self.folder, topdown=False):  # orbax takes one for a checkpoint
      with suppress(OSError):
        os.rmdir(root)
    self.folder.mkdir(exist_ok=True)
    new = {
      name: found
      for name, found in there.items()
      if name not in here or self._known.get(name) != (*here[name], found.tag)
    }
    if new:
      size = sum(found.size for found in new.values())
      _say(
        f'Copying {counted(len(new), "file")} ({size / 1e6:.0f} MB) from {self._bucket.url} ...'
      )
    self._download(new)
    stamps = _scan(self.folder)
    self._known = {name: (*stamps[name], found.tag) for name, found in there.items()}
    self._write_state()

  def pull_models(self) -> None:
    """`pull` of trained models alone, which a run may be about to replace."""
    self._read_state()
    for _ in range(_READS):
      with suppress(FileNotFoundError):
        self.pull(_is_of_model)
        tags = {name: facts[2] for name, facts in self._known.items()}
        if tags == {name: found.tag for name, found in self._listed(_is_of_model).items()}:
          return
    raise BucketError(f'{self._bucket.url} changes while it is read; try again in a minute')

  def _listed(self, wanted: Callable[[str], bool]) -> dict[str, Object]:
    """What there is to be copied; not checkpoints whose copying a kill has ended."""
    found = self._bucket.find()
    left_out = _unfinished_steps(found.keys())
    return {
      name: object_
      for name, object_ in found.items()
      if not _is_hidden(name) and wanted(name) and name not in left_out
    }

  def push(self, lease: Lease, last: bool = False) -> None:
    """Makes the place what the folder is, if it has changed in more than its logs.

    Args:
      lease: the lease on the place; where another process has it, nothing is done.
      last: whether logs count as well, and whether all that was copied is looked at again.

    Raises: see `pull`.
    """
    # Whoever writes a marker has written before what it speaks of.
    markers = {name: stamp for name, stamp in _scan(self.folder).items() if _is_marker(name)}
    stamps = _scan(self.folder)
    if last:
      there = self._bucket.find()
      tags = {name: found.tag for name, found in there.items()}
      self._known = {n: facts for n, facts in self._known.items() if tags.get(n) == facts[2]}
    changed = {name for name, stamp in stamps.items() if self._known.get(name, ())[:2] != stamp}
    gone = self._known.keys() - stamps.keys()
    if (not gone and all(_is_log(name) and not last for name in changed)) or lease.is_lost():
      return
    self._remove([name for name in gone if PurePosixPath(name).name in _FIRST_TO_GO])
    # A model's facts are of its arrays: no moment may have the old ones beside new arrays.
    self._remove([name for name in _facts_of(changed) if name in self._known])
    uploaded = self._upload(sorted(name for name in changed if not _is_marker(name)))
    if lease.is_lost():
      return
    if uploaded >= {name for name in changed if not _is_marker(name)}:
      now = _scan(self.folder)
      uploaded |= self._upload(
        sorted(name for name in changed & markers.keys() if markers[name] == now.get(name))
      )
    if uploaded >= changed:  # else what is gone may be all that there is
      gone &= self._known.keys()
      self._remove([name for name in gone if _is_marker(name)])
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
      self._known.pop(name, None)

  def _download(self, objects: dict[str, Object]) -> None:
    for name in objects:
      path = PurePosixPath(name)
      if path.is_absolute() or '..' in path.parts or str(path) != name or '\0' in name:
        raise UserError(f'{self._bucket.url} has an object named {name}; remove it.')
    incoming = self.home / 'incoming'  # beside the folder, where a killed one does no harm
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    files = {name: incoming / str(number) for number, name in enumerate(objects)}
    self._bucket.download(files.items())
    for name in sorted(files, key=lambda name: (_is_marker(name), name)):
      if files[name].stat().st_size != objects[name].size:
        raise BucketError(f'{self._bucket.url}/{name} changed while it was read')
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      files[name].replace(self.folder / name)
    incoming.rmdir()

  def _owner(self) -> str:
    path = self.home / 'id'
    if not path.exists():
      atomic.write_text(path, secrets.token_hex(16))
    return f'{path.read_text()} {platform.node()}'  # of a copied disk the id alone is not one

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


@contextmanager
def _repeated(pause: float, function: Callable[[], None]) -> Iterator[None]:
  """Calls a function in a thread of its own, again and again, while the body runs."""
  stop = threading.Event()

  def repeat() -> None:
    told = False
    while not stop.wait(pause):
      try:
        function()
        told = False
      except Exception as error:  # at the end it counts; until then there are further attempts
        if not told:
          _say(f'Note: {explain(error).rstrip(".")}; the run goes on, and copies later.')
        told = True

  thread = threading.Thread(target=repeat, name='bucket', daemon=True)
  try:
    thread.start()
    yield
  finally:
    with interrupt.postponed():
      stop.set()
      thread.join()


def _renew(lease: Lease) -> None:
  if lease.is_lost():
    interrupt.ask(_LOSS)
  else:
    lease.renew()


def _say(sentence: str) -> None:
  with suppress(OSError):  # of a terminal that is gone
    print(sentence, flush=True)


def _facts_of(names: Iterable[str]) -> list[str]:
  """The facts of models whose arrays are among the names."""
  arrays = [PurePosixPath(name) for name in names if name.endswith(model.TENSORS)]
  return [str(path.with_name(model.FACTS)) for path in arrays]


def _step_of(name: str) -> str | None:
  """The folder of the checkpoint that a file belongs to, if it does to any."""
  parts = PurePosixPath(name).parts
  for number, part in enumerate(parts[:-2]):
    if part == _CHECKPOINTS:
      return '/'.join(parts[: number + 2])
  return None


def _unfinished_steps(names: Collection[str]) -> set[str]:
  """Files of checkpoints that were not copied to their end."""
  steps = {name: step for name in names if (step := _step_of(name)) is not None}
  return {name for name, step in steps.items() if f'{step}/{_WHOLE}' not in names}


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
    part in _HIDDEN
    or atomic.is_temporary(part)
    or _UNFINISHED in part
    or part.startswith(_REMOVED_ON_NFS)
    for part in PurePosixPath(name).parts
  )


def _is_marker(name: str) -> bool:
  path = PurePosixPath(name)
  return path.name in _MARKERS or f'{_step_of(name)}/{_WHOLE}' == name


def _is_of_model(name: str) -> bool:
  return PurePosixPath(name).name in _OF_MODELS and name.count('/') <= 2


def _is_log(name: str) -> bool:
  return name.endswith(_LOGS) or not set(trackers.FOLDERS).isdisjoint(PurePosixPath(name).parts)
