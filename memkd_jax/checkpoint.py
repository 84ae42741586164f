"""Saving and restoring the training state: the only file that knows orbax."""

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
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
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

  def save(self, step: int, state: Any) -> None:
    """Saves a tree of numpy arrays in the background.

    Args:
      step: number of steps taken; saved once.
      state: not changed by the caller afterwards.
    """
    self._manager.save(step, args=ocp.args.StandardSave(state))

  def restore(self, like: Any) -> Any:
    """Restores the newest checkpoint.

    Args:
      like: a tree of arrays of the expected structure, shapes and dtypes.

    Returns:
      The tree, of numpy arrays.

    Raises:
      UserError: it is damaged or was made by another model.
    """
    step = self.latest_step()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
    try:
      state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
      # Orbax compares the structure of the trees but not the shapes of the arrays.
      if any(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape != b.shape, state, abstract))):
        raise ValueError('its arrays have other shapes')
    except (ValueError, KeyError, TypeError, OSError) as error:
      raise UserError(
        f'The checkpoint {self._folder / str(step)} cannot be restored '
        f'({str(error).splitlines()[0]}); remove {self._folder} to train again.'
      ) from error
    return jax.tree.map(np.asarray, state)
