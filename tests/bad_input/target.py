"""What a target is: something that reads files, and what it must never do."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


class Target:
  """Something that reads files.

  Attributes:
    isolated: whether each case needs a process of its own.
    memory: bytes that a case may take, None for any.
  """

  isolated = False
  memory: int | None = 3 * 2**30

  def __init__(self, name: str):
    self.name = name
    self._names: tuple[str, ...] = ()

  def prepare(self, folder: Path) -> None:
    """Writes what is valid; runs once, in a process of its own."""

  def run(self, number: int, folder: Path) -> None:
    """Runs a case: returns where it works, else raises what the project raises.

    Args:
      number: of the case, which is its seed.
      folder: what `prepare` wrote; another case may have left it in any state.

    Raises:
      WrongError: it works, but what was read is not what the file holds.
    """
    raise NotImplementedError

  def random(self, number: int) -> random.Random:
    return random.Random(f'{self.name} {number}')

  def expect(self, *names: Path | str) -> None:
    """From here on an error must contain one of these."""
    self._names = tuple(str(name) for name in names)

  def problem(self, message: str) -> str | None:
    """Why a sentence is none, or names nothing; None where all is well."""
    if len(message.splitlines()) != 1 or not message.isprintable():
      return 'it is not one line'
    if len(message) > 20_000:
      return f'it has {len(message)} characters'
    if not any(name in message for name in self._names):
      return f'it names none of {", ".join(self._names)[:200]}'
    return None


@contextmanager
def as_nobody(needed: bool) -> Iterator[None]:
  """Gives up what the administrator may do, to whom every file is readable."""
  if not needed or os.getuid():
    yield
    return
  os.seteuid(_NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)
