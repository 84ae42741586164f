"""Candidates that are timed turn by turn, so that all see the machine in the same states."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Turn(NamedTuple):
  """What a turn gave.

  Attributes:
    rate: items per second.
    times: seconds of its calls: of each, or of all together where they were queued.
    joules: per item; None where nothing counts them.
  """

  rate: float
  times: list[float]
  joules: float | None = None


@dataclasses.dataclass
class Candidate:
  """Something that is timed.

  Attributes:
    work: what it does; candidates of the same work are compared.
    side: who does it.
    items: that one call processes, such as images.
    times: makes so many calls, and gives their seconds, see `Turn`.
    dtype: that it computes in; '' where that is not known.
    flop: of one call, None where nobody counted.
    facts: what else is known, such as compile seconds.
  """

  work: str
  side: str
  items: int
  times: Callable[[int], list[float]]
  dtype: str = ''
  flop: float | None = None
  facts: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """For the tables."""
    return f'{self.work}, {self.side}'


@dataclasses.dataclass(frozen=True)
class Queued:
  """A call that may return before it is done, as those of accelerators do.

  Attributes:
    run: begins it.
    wait: returns when everything is done that was begun.
  """

  run: Callable[[], Any]
  wait: Callable[[], Any]

  def __call__(self) -> Any:
    """Waits for it."""
    result = self.run()
    self.wait()
    return result


def timed(run: Callable[[], Any]) -> Callable[[int], list[float]]:
  """`Candidate.times` of a call; those of a `Queued` are waited for at the end alone."""

  def together(queued: Queued, calls: int) -> list[float]:
    begin = time.perf_counter()
    for _ in range(calls):
      queued.run()
    queued.wait()
    return [time.perf_counter() - begin]

  def times(calls: int) -> list[float]:
    if isinstance(run, Queued):
      return together(run, calls)
    found = []
    for _ in range(calls):
      begin = time.perf_counter()
      run()
      found.append(time.perf_counter() - begin)
    return found

  return times


def take_turns(
  candidates: Sequence[Candidate],
  repetitions: int,
  seconds: float,
  energy: Callable[[], float] | None = None,
) -> dict[str, list[Turn]]:
  """The turns of each candidate, by its name; one that fails is named, and left out.

  Args:
    candidates: have a turn each in every repetition.
    repetitions: turns of each.
    seconds: that a turn lasts about; one call at least.
    energy: joules since some moment, where they are counted.
  """
  calls: dict[str, int] = {}
  turns: dict[str, list[Turn]] = {candidate.name: [] for candidate in candidates}

  def prepare(candidate: Candidate) -> int:
    candidate.times(1)
    calls[candidate.name] = max(1, round(seconds / sum(candidate.times(1))))
    return calls[candidate.name]

  def take(candidate: Candidate) -> Turn:
    # Memory that the others' turns took from this one comes back first, uncounted.
    candidate.times(1)
    number = calls[candidate.name]
    before = energy() if energy else 0.0
    times = candidate.times(number)
    used = (energy() - before) / (number * candidate.items) if energy else None
    turn = Turn(number * candidate.items / sum(times), times, used)
    turns[candidate.name].append(turn)
    return turn

  for act in (prepare, *[take] * repetitions):
    for candidate in candidates:
      if candidate.name in turns and not attempt(candidate.name, act, candidate):
        del turns[candidate.name]
  return turns


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
  """What a function gives; None where it fails, which leaves out what is named so."""
  try:
    return function(*arguments)
  except Exception as error:  # whatever it is, the others go on
    print(f'{name} is left out: {in_one_line(error)}', flush=True)
    return None


def in_one_line(error: Exception) -> str:
  """What an error says, in at most 300 characters."""
  return ' '.join(str(error).split())[:300] or type(error).__name__
