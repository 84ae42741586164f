"""A process of its own for what is timed beside ours, whose threads are in nobody's way."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from typing import Any

from turns import in_one_line, timed

from memkd_jax.errors import UserError

# What a process of its own does: {name: a call that returns when it is done, or `Queued`}.
Works = dict[str, Callable[[], Any]]
_EXTRAS = {'torch': 'convert', 'sklearn': 'dev', 'jax2onnx': 'onnx', 'onnxruntime': 'onnx'}


class OtherProcess:
  """Does works in a process of its own."""

  def __init__(self, package: str, works: Callable[..., Works], *arguments: Any):
    """Starts it, and does not wait for it.

    Args:
      package: that it needs, by the name of its import.
      works: makes the works of `arguments`, there.
      arguments: arrays and the like, which are copied.

    Raises:
      UserError: the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
      extra = _EXTRAS.get(package, package)
      raise UserError(f'{package} is not installed: pip install "memkd_jax[{extra}]".')
    self._package, self._ready = package, False
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    arguments = (theirs, works, arguments)
    self._process = context.Process(target=_answer, args=arguments, daemon=True)
    self._process.start()
    theirs.close()  # so that the end of the process is seen here

  def wait(self) -> None:
    """Waits until its works are made.

    Raises:
      UserError: they cannot be made.
    """
    if not self._ready:
      self._receive()
      self._ready = True

  def times(self, work: str) -> Callable[[int], list[float]]:
    """`Candidate.times` of one of the works."""
    return lambda calls: list(self._ask(work, calls))

  def result(self, work: str) -> Any:
    """What a call of one of the works gives.

    Raises:
      UserError: it fails, or the process has ended.
    """
    return self._ask(work, None)

  def close(self) -> None:
    """Ends the process, and gives its memory back."""
    self._connection.close()
    self._process.join(10)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _ask(self, work: str, calls: int | None) -> Any:
    self.wait()
    try:
      self._connection.send((work, calls))
    except OSError as error:
      raise self._ended() from error
    return self._receive()

  def _receive(self) -> Any:
    try:
      failed, answer = self._connection.recv()
    except (EOFError, OSError) as error:
      raise self._ended() from error
    if failed:
      raise UserError(answer)
    return answer

  def _ended(self) -> UserError:
    return UserError(f'the process with {self._package} ended; its error stands above.')


def _answer(connection: Any, works: Callable[..., Works], arguments: tuple[Any, ...]) -> None:
  """Makes the calls that the other end of the connection asks for."""
  known: Works = {}

  def make() -> None:
    known.update(works(*arguments))

  def do(work: str, calls: int | None) -> Any:
    return known[work]() if calls is None else timed(known[work])(calls)

  connection.send(_tried(make))
  while True:
    try:
      request = connection.recv()
    except EOFError:
      return
    connection.send(_tried(do, *request))


def _tried(function: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
  """Whether it failed, and its result or what the error says."""
  try:
    return False, function(*arguments)
  except Exception as error:  # of any package, whose classes the other process may not know
    return True, f'{type(error).__name__}: {in_one_line(error)}'
