"""Saving and restoring the training state: the only file that knows orbax."""

import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from memkd_jax.errors import UserError
from memkd_jax.training import manifest

# In the metadata as well as in the manifest: a checkpoint with neither is older than both.
_FORMAT = 'format'
# Orbax tells saves apart by a counter of its whole process, which it reads more than
# once while a save begins.
_BEGINNING = threading.Lock()


class Checkpoints:
  """The checkpoints of one run; a context manager that ends with them all on disk.

  Saving goes on in the background. A checkpoint counts once its manifest is there,
  which is written when orbax has finished; what has none is ignored, and so is what
  differs from its manifest where an older one does not. What is ignored is removed
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
      cleanup_tmp_directories=True,
      multiprocessing_options=alone,
    )
    self._manager = _Manager(folder.absolute(), options=options)
    self._background = ThreadPoolExecutor(1, 'manifest')
    self._saving: Future[None] | None = None
    self._chosen: int | None = None
    self._has_chosen = self._has_discarded = False

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    try:
      with self._saving_explained():
        try:
          self.wait()
        finally:
          self._background.shutdown()
          self._manager.close()
    except Exception:
      if error is None:  # else that one came first, and is the one to be told
        raise

  def latest_step(self) -> int | None:
    """The step of the newest good checkpoint, None where there is none.

    Raises:
      UserError: all are damaged, or one is of a later format.
    """
    if not self._has_chosen:
      self._chosen, self._has_chosen = self._choose(), True
    return self._chosen

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Saves a tree of numpy arrays in the background.

    Args:
      step: number of steps taken; more than `latest_step`.
      state: not changed by the caller afterwards.
      metadata: JSON values, see `read_metadata`.

    Raises:
      OSError: this one or the one before could not be written.
    """
    self.wait()
    self._discard_after(self.latest_step())
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      metadata=ocp.args.JsonSave({_FORMAT: manifest.FORMAT} | metadata),
    )
    with self._saving_explained(), _BEGINNING:
      if not self._manager.save(step, args=args):
        raise ValueError(f'step {step} is not newer than {self.latest_step()}')
    self._saving = self._background.submit(self._finish, step)

  def wait(self) -> None:
    """Returns when all that was saved is on disk.

    Raises:
      OSError: it could not be written.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      with self._saving_explained():
        saving.result()

  def read_metadata(self) -> dict[str, Any]:
    """What the newest good checkpoint says of its training.

    Raises:
      UserError: it is damaged.
    """
    with self._explained():
      metadata = self._read_metadata(self.latest_step())
      metadata.pop(_FORMAT, None)
      return metadata

  def restore(self, like: Any) -> Any:
    """Restores the state of the newest good checkpoint.

    Args:
      like: a tree of arrays of the expected structure, shapes and dtypes.

    Returns:
      The tree, of numpy arrays.

    Raises:
      UserError: it is damaged or was made by another model.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
    with self._explained():
      args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      state = self._manager.restore(self.latest_step(), args=args).state
      # Orbax compares the structure of the trees but not the shapes of the arrays.
      if any(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape != b.shape, state, abstract))):
        raise ValueError('its arrays have other shapes')
    return jax.tree.map(np.asarray, state)

  def _choose(self) -> int | None:
    """Finds the newest good checkpoint, and says what is wrong with newer ones."""
    problems: list[str] = []
    all_incomplete = True
    for step in self._steps():
      path = self._folder / str(step)
      if manifest.exists(path):
        problem = manifest.find_damage(path)
        all_incomplete = False
      elif self._precedes_manifests(step):
        print(
          f'Note: {path} was saved before checkpoints had manifests; it is used unverified.',
          flush=True,
        )
        problem = None
      else:
        problem = 'it is incomplete'
      if problem is None:
        if problems:
          self._say(problems, f'the checkpoint of step {step} is used')
        return step
      problems.append(f'step {step}: {problem}')
    if not problems:
      return None
    if not all_incomplete:
      raise UserError(
        f'There is no intact checkpoint in {self._folder} ({"; ".join(problems)}); remove '
        'that folder to train again.'
      )
    self._say(problems, 'there is no other')
    return None

  def _say(self, problems: list[str], instead: str) -> None:
    print(
      f'Note: not all checkpoints in {self._folder} can be used ({"; ".join(problems)}): '
      f'{instead}.',
      flush=True,
    )

  def _steps(self) -> list[int]:
    """What looks like a checkpoint, finished or not; newest first."""
    names = [path.name for path in self._folder.iterdir() if path.is_dir()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

  def _precedes_manifests(self, step: int) -> bool:
    try:
      return _FORMAT not in self._read_metadata(step)
    except Exception:  # orbax raises what it likes for half a checkpoint
      return False

  def _read_metadata(self, step: int | None) -> dict[str, Any]:
    args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    return dict(self._manager.restore(step, args=args).metadata)

  def _discard_after(self, last: int | None) -> None:
    """Removes what is newer, which orbax would not overwrite."""
    if self._has_discarded:
      return
    self._has_discarded = True
    for step in self._steps():
      if last is not None and step <= last:
        break
      if step in self._manager.all_steps():
        self._manager.delete(step)
      elif jax.process_index() == 0:
        shutil.rmtree(self._folder / str(step))

  def _finish(self, step: int) -> None:
    """Writes the manifest once orbax has finished."""
    self._manager.wait_until_finished()
    if jax.process_index() == 0:
      manifest.write(self._folder / str(step))
    self._chosen, self._has_chosen = step, True

  @contextmanager
  def _explained(self) -> Iterator[None]:
    """Makes one sentence of what orbax raises for a damaged or foreign checkpoint."""
    try:
      yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
      raise UserError(
        f'The checkpoint {self._folder / str(self.latest_step())} cannot be restored '
        f'({str(error).splitlines()[0]}); remove {self._folder} to train again.'
      ) from error

  @contextmanager
  def _saving_explained(self) -> Iterator[None]:
    """Makes an OSError of the text in which tensorstore hides one."""
    try:
      yield
    except ValueError as error:
      code = re.search(r"os_error_code='(\d+)'", str(error))
      if code is None:
        raise
      number = int(code[1])
      raise OSError(number, os.strerror(number), str(self._folder)) from error
    except OSError as error:
      if error.filename is None:
        error.filename = str(self._folder)
      raise


class _Manager(ocp.CheckpointManager):
  """Orbax's, which does not take part in what processes agree on."""

  def reached_preemption(self, step: int) -> bool:
    """False: JAX, if asked, would count it as a call of `processes.told_to_end`."""
    return False


def _silence_orbax() -> None:
  """Keeps off the terminal what is raised as well."""
  logger = logging.getLogger('absl')
  if not any(isinstance(f, _RaisedAnyway) for f in logger.filters):
    logger.addFilter(_RaisedAnyway())
    sys.unraisablehook = _without_closed_loops(sys.unraisablehook)


class _RaisedAnyway(logging.Filter):
  """Drops the errors that orbax logs, page-long tracebacks among them."""

  def filter(self, record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or f'{os.sep}orbax{os.sep}' not in record.pathname


def _without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Drops what tensorstore cannot report, where one write has failed and others go on."""

  def quiet(unraisable: Any) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  return quiet
