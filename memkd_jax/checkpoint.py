"""Saving and restoring the training state: the only file that knows orbax."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from memkd_jax.errors import UserError


class Checkpoints:
  """The checkpoints of one run; a context manager that ends with them all on disk.

  Saving goes on in the background; a checkpoint that was not finished is
  ignored by `latest_step` and `restore`.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    # Alone: the other processes of a run do not come to orbax's barriers.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    options = ocp.CheckpointManagerOptions(
      max_to_keep=2, create=False, multiprocessing_options=alone
    )
    self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._manager.close()

  def latest_step(self) -> int | None:
    """The step of the newest complete checkpoint, None where there is none."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Saves a tree of numpy arrays in the background.

    Args:
      step: number of steps taken; saved once.
      state: not changed by the caller afterwards.
      metadata: JSON values, see `read_metadata`.
    """
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), metadata=ocp.args.JsonSave(metadata)
    )
    self._manager.save(step, args=args)

  def read_metadata(self) -> dict[str, Any]:
    """What the newest checkpoint says of its training.

    Raises:
      UserError: it is damaged.
    """
    with self._explained():
      args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
      return dict(self._manager.restore(self.latest_step(), args=args).metadata)

  def restore(self, like: Any) -> Any:
    """Restores the state of the newest checkpoint.

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
