"""Candidates that are timed turn by turn, some of them in a process of their own."""

import dataclasses
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from memkd_jax.errors import UserError

# What a process of its own does: {name: a call that returns when it is done}.
Works = dict[str, Callable[[], Any]]


@dataclasses.dataclass
class Candidate:
  """Something that is timed.

  Attributes:
    name: for the table.
    items: that one call processes, such as images.
    seconds: makes so many calls, and gives the seconds that they took.
    flop: of one call, None where nobody counted.
    facts: what else is known, such as compile seconds.
  """

  name: str
  items: int
  seconds: Callable[[int], float]
  flop: float | None = None
  facts: dict[str, float] = dataclasses.field(default_factory=dict)


def take_turns(
  candidates: list[Candidate], repetitions: int, seconds: float
) -> dict[str, list[float]]:
  """Items per second of each turn, by candidate.

  Args:
    candidates: have a turn each in every repetition.
    repetitions: turns of each.
    seconds: that a turn lasts about; one call at least.
  """
  calls = {}
  for candidate in candidates:
    candidate.seconds(1)
    calls[candidate.name] = max(1, round(seconds / candidate.seconds(1)))
  rates: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
  for _ in range(repetitions):
    for candidate in candidates:
      # Memory that the others' turns took from this one comes back first, uncounted.
      candidate.seconds(1)
      number = calls[candidate.name]
      rates[candidate.name].append(number * candidate.items / candidate.seconds(number))
  return rates


def timed(run: Callable[[], Any]) -> Callable[[int], float]:
  """`Candidate.seconds` of what returns when it is done."""

  def seconds(calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
      run()
    return time.perf_counter() - begin

  return seconds


class OtherProcess:
  """Does works in a process of its own, whose threads are in nobody's way."""

  def __init__(self, package: str, works: Callable[..., Works], *arguments: Any):
    """Starts it.

    Args:
      package: that it needs, by the name of its import.
      works: makes the works of `arguments`, there.
      arguments: arrays and the like, which are copied.

    Raises:
      UserError: the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
      extra = {'torch': 'convert', 'sklearn': 'dev'}[package]
      raise UserError(f'--against needs {package}: pip install "memkd_jax[{extra}]".')
    self._package = package
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    context.Process(target=_answer, args=(theirs, works, arguments), daemon=True).start()
    theirs.close()  # so that the end of the process is seen here

  def seconds(self, work: str) -> Callable[[int], float]:
    """`Candidate.seconds` of one of the works."""
    return lambda calls: float(self._ask(work, calls))

  def result(self, work: str) -> Any:
    """What a call of one of the works gives."""
    return self._ask(work, None)

  def _ask(self, work: str, calls: int | None) -> Any:
    self._connection.send((work, calls))
    try:
      return self._connection.recv()
    except EOFError as error:
      text = f'The process with {self._package} ended; its error stands above.'
      raise UserError(text) from error


def _answer(connection: Any, works: Callable[..., Works], arguments: tuple[Any, ...]) -> None:
  """Makes the calls that the other end of the connection asks for."""
  known = works(*arguments)
  while True:
    try:
      work, calls = connection.recv()
    except EOFError:
      return
    connection.send(known[work]() if calls is None else timed(known[work])(calls))
