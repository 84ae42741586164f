"""Whether what is traced is to be converted to another format, which knows less than XLA."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_wanted = ContextVar('portable_wanted', default=False)


@contextmanager
def operations() -> Iterator[None]:
  """What is traced inside has no loops, and nothing that is chosen by platform."""
  token = _wanted.set(True)
  try:
    yield
  finally:
    _wanted.reset(token)


def wanted() -> bool:
  """Whether this is traced inside `operations`."""
  return _wanted.get()
