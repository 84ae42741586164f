"""Saving and restoring the training state: the only file that knows orbax."""

import dataclasses
import functools
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import DIGEST, digest, tree_digest

FORMAT = 1
# Orbax tells saves apart by a counter of its whole process, which it reads more than
# once while a save begins.
_BEGINNING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
  """What one checkpoint holds.

  Attributes:
    step: number of steps taken.
    arrays: the leaves of the state by their names.
    metadata: JSON values that the caller gave.
  """

  step: int
  arrays: dict[str, np.ndarray]
  metadata: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run; a context manager that ends with them all on disk.

  Saving goes on in the background, and a checkpoint gets its name when all of it is
  written. Its metadata holds a sha256 of the state and one of itself. A checkpoint that
  differs from them is ignored where an older one does not. What is ignored is removed
  when training goes on from what came before it, and not by reading alone.
  """

  def __init__(self, folder: Path):
    """Opens the checkpoints in `folder`, which is made if missing."""
    _silence_orbax()
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    # Alone: the other processes of a run do not come to orbax's barriers.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    options = ocp.CheckpointManagerOptions(
      max_to_keep=2,
      create=False,  # orbax cannot where it is alone
      # Else orbax reads a file of each checkpoint here, and fails where it is damaged.
      lightweight_initialize=True,
      cleanup_tmp_directories=True,
      multiprocessing_options=alone,
    )
    self._manager = _Manager(folder.absolute(), options=options)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    try:
      try:
        self.wait()
      finally:
        self._manager.close()
    except Exception:
      if error is None:  # else that one came first, and is the one to be told
        raise

  def latest_step(self) -> int | None:
    """The step of the newest intact checkpoint, None where there is none.

    It is read as a whole and kept in memory for `read_metadata` and `restore`.

    Raises:
      UserError: all are damaged, or one is of a later format.
      PermissionError: one may not be read.
    """
    return self._newest.step if self._newest else None

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Saves a tree of numpy arrays in the background.

    Args:
      step: number of steps taken; more than `latest_step`.
      state: the state, a tree of numpy arrays, which the caller does not change afterwards.
      metadata: JSON values, see `read_metadata`.

    Raises:
      OSError: this one or the one before could not be written.
    """
    latest = self.latest_step() or 0
    for damaged in [other for other in self._manager.all_steps() if other > latest]:
      self._manager.delete(damaged)  # orbax would not overwrite it
    checkpoint = _Checkpoint(step, _by_name(state), metadata)
    content = {
      'format': FORMAT,
      'arrays': {name: [x.dtype.name, x.shape] for name, x in checkpoint.arrays.items()},
      'arrays_sha256': tree_digest(checkpoint.arrays),
      'metadata': metadata,
    }
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(checkpoint.arrays),
      metadata=ocp.args.JsonSave(content | {DIGEST: digest(content)}),
    )
    self.wait()
    with self._os_errors(), _BEGINNING:
      if not self._manager.save(step, args=args):
        raise ValueError(f'step {step} is not newer than {latest}')
    self._newest = checkpoint

  def wait(self) -> None:
    """Returns when all that was saved is on disk.

    Raises:
      OSError: it could not be written.
    """
    with self._os_errors():
      self._manager.wait_until_finished()

  def read_metadata(self) -> dict[str, Any]:
    """What the newest intact checkpoint, which there must be, says of its training.

    Raises:
      UserError: see `latest_step`.
    """
    assert self._newest is not None
    return self._newest.metadata

  def restore(self, like: Any) -> Any:
    """Restores the state of the newest intact checkpoint, which there must be.

    Args:
      like: a tree of arrays of the expected structure, shapes and dtypes.

    Returns:
      The tree, of numpy arrays.

    Raises:
      UserError: the checkpoint was made by another model, or see `latest_step`.
    """
    assert self._newest is not None
    found, expected = (
      {name: (array.shape, array.dtype) for name, array in arrays.items()}
      for arrays in (self._newest.arrays, _by_name(like))
    )
    different = [name for name in found | expected if found.get(name) != expected.get(name)]
    if different:
      raise UserError(
        f'The checkpoint {self._folder / str(self._newest.step)} cannot be restored (it is of '
        f'another model, with another {different[0]}); remove {self._folder} to train again.'
      )
    leaves = [self._newest.arrays[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)

  @functools.cached_property
  def _newest(self) -> _Checkpoint | None:
    """The newest intact checkpoint; says what is wrong with newer ones."""
    problems: list[str] = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        checkpoint = self._read(step)
      except _DamagedError as error:
        problems.append(f'step {step}: {error}')
        continue
      if problems:
        print(
          f'Note: not all checkpoints in {self._folder} can be used ({"; ".join(problems)}): '
          f'the checkpoint of step {step} is used.',
          flush=True,
        )
      return checkpoint
    if problems:
      raise UserError(
        f'There is no intact checkpoint in {self._folder} ({"; ".join(problems)}); remove '
        'that folder to train again.'
      )
    return None

  def _read(self, step: int) -> _Checkpoint:
    """Reads a checkpoint and verifies it."""
    content = self._read_item(step, 'metadata', ocp.args.JsonRestore())
    if content.get(DIGEST) != digest(content):
      raise _DamagedError('its metadata differs from what was written')
    if content['format'] > FORMAT:
      raise UserError(
        f'{self._folder / str(step)} was written by a newer memkd_jax (checkpoint format '
        f'{content["format"]}, and this one knows {FORMAT}); update memkd_jax, or choose '
        'another --workdir.'
      )
    like = {name: np.empty(shape, dtype) for name, (dtype, shape) in content['arrays'].items()}
    arrays = self._read_item(step, 'state', ocp.args.StandardRestore(like))
    if tree_digest(arrays) != content['arrays_sha256']:
      raise _DamagedError('its state differs from what was written')
    return _Checkpoint(step, arrays, content['metadata'])

  def _read_item(self, step: int, name: str, args: ocp.args.CheckpointArgs) -> dict[str, Any]:
    try:
      with self._os_errors():
        item = self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]
        return dict(item)
    except PermissionError:
      raise
    except Exception as error:  # orbax raises what it likes for half a checkpoint
      raise _DamagedError(f'its {name} cannot be read') from error

  @contextmanager
  def _os_errors(self) -> Iterator[None]:
    """Makes an OSError of the text in which tensorstore hides one, and names the folder."""
    try:
      yield
    except ValueError as error:
      code = re.search(r"os_error_code='(\d+)'", str(error))
      if code is None:
        raise
      number = int(code[1])
      raise OSError(number, os.strerror(number), str(self._folder)) from error
    except OSError as error:
      error.filename = str(self._folder)
      raise


def discard(folder: Path) -> None:
  """Removes the checkpoints of a run, all or none of them.

  Where a kill comes in between, `atomic.remove_orphans` removes the rest.

  Args:
    folder: the folder that `Checkpoints` was given; it need not exist.

  Raises:
    OSError: it cannot be removed.
  """
  if folder.exists():
    shutil.rmtree(folder.rename(atomic.temporary_beside(folder)))


class _DamagedError(Exception):
  """A checkpoint is not what was written; the message is a clause."""


class _Manager(ocp.CheckpointManager):
  """Orbax's, which does not take part in what processes agree on."""

  def reached_preemption(self, step: int) -> bool:
    """False: JAX, if asked, would count it as a call of `hosts.reached_preemption`."""
    return False


def _by_name(tree: Any) -> dict[str, np.ndarray]:
  """The leaves of a tree by the names of their places in it."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _silence_orbax() -> None:
  """Keeps off the terminal what is raised as well."""
  logger = logging.getLogger('absl')
  if not any(isinstance(f, _RaisedAnyway) for f in logger.filters):
    logger.addFilter(_RaisedAnyway())
    logging.getLogger('asyncio').addFilter(_RaisedAnyway())
    sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


class _RaisedAnyway(logging.Filter):
  """Drops the errors that orbax logs, page-long tracebacks among them.

  Of many reads that fail only the first is raised, and asyncio logs the others.
  """

  def filter(self, record: logging.LogRecord) -> bool:
    of_orbax = f'{os.sep}orbax{os.sep}' in record.pathname
    of_tensorstore = 'tensorstore' in str(record.exc_info and record.exc_info[1])
    return record.levelno < logging.ERROR or not (of_orbax or of_tensorstore)


def _without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Drops what tensorstore cannot report, where one write has failed and others go on."""

  def quiet(unraisable: Any) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  return quiet
