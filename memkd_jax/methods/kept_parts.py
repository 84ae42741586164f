"""Models of which a task has several: each is kept when it is fitted, until all are done.

So a run that is started again repeats none of them; one that was stopped in the middle of a
training resumes as any training does.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.files import atomic, model
from memkd_jax.runtime import hosts
from memkd_jax.training import shared_checkpoints


def read(home: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
  """What a part has learned, in all processes; None where there is none of use.

  Args:
    home: the folder that holds the part's model.
    facts: JSON values that tell the part from others.
  """
  content: bytes = b''
  found: dict[str, Any] = {}
  with hosts.raise_together():
    if hosts.is_main() and model.exists(home):
      try:
        found, content = model.read_facts(home), model.read_bytes(home)
        model.parse_params(content, found)
      except (ValueError, OSError, UserError):  # it is made again
        found = {}
  found = hosts.exchange(found)[0]
  if any(found.get(name) != value for name, value in facts.items()):
    return None
  return model.parse_params(hosts.bytes_from_main(content), found)


def read_facts(home: Path) -> dict[str, Any]:
  """The facts of a part that `read` found, in all processes."""
  return hosts.on_main(lambda: model.read_facts(home))


def write(home: Path, params: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
  """Keeps a part's model, and no longer the state of its training."""
  hosts.on_main(lambda: model.write(home, params, facts))
  shared_checkpoints.discard(home / 'checkpoints')


def forget_all(folder: Path, patterns: Sequence[str]) -> None:
  """Removes the models of parts, and their folders where nothing else is left in them.

  Args:
    folder: the task's folder, in which the parts lie.
    patterns: glob patterns of the parts' folders in it.

  Raises:
    OSError: they cannot be removed.
  """

  def remove() -> None:
    for home in sorted(home for pattern in patterns for home in folder.glob(pattern)):
      for name in (model.FACTS, model.TENSORS):
        (home / name).unlink(missing_ok=True)
      for place in (home, home.parent):
        if not any(place.iterdir()):
          place.rmdir()

  hosts.on_main(remove)


def discard(folder: Path) -> None:
  """Removes a folder of parts, all or nothing of it; does nothing where it is not there.

  Raises:
    OSError: it cannot be removed.
  """

  def remove() -> None:
    if folder.exists():
      shutil.rmtree(folder.rename(atomic.temporary_beside(folder)))

  hosts.on_main(remove)
