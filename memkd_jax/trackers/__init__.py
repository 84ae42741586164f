"""Where the figures of a run go beside its own files: a table of names.

A tracker is a class like `tracker.Tracker`; `train.trackers` names those of the table, or
any other as `module:Class`.
"""

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.trackers.tracker import IDS, Place, Tracker

__all__ = ['FOLDERS', 'IDS', 'TRACKERS', 'Place', 'Tracker', 'Trackers', 'check', 'finish']

TRACKERS = {
  'tensorboard': 'memkd_jax.trackers.tensorboard:TensorBoard',
  'mlflow': 'memkd_jax.trackers.mlflow:MLflow',
  'wandb': 'memkd_jax.trackers.wandb:WandB',
}
# In a model's folder: what the trackers of the table write that write files.
FOLDERS = ('tensorboard', 'wandb')


def check(names: Iterable[str]) -> None:
  """Raises UserError where a tracker is not known, not installed, or not at hand."""
  for name in names:
    ready = getattr(_find(name), 'check', None)
    if ready is not None:
      ready()


class Trackers:
  """Hands all that a model's training and evaluation tell to some trackers; a context manager.

  A tracker that fails is left out from then on, with one sentence: a server that is away must
  not end a training, whose own files have it all.
  """

  def __init__(self, names: Iterable[str], place: Place):
    """Opens the trackers.

    Args:
      names: names of trackers: some of `TRACKERS`, or `module:Class`.
      place: the model that trackers are told of.

    Raises:
      UserError: there is no such tracker.
    """
    self._name = place.name
    self._open: dict[str, Tracker] = {}
    for name in names:
      create: Callable[[Place], Tracker] = _find(name)
      tracker = self._attempt(name, functools.partial(create, place))
      if tracker is not None:
        self._open[name] = tracker

  def __enter__(self) -> 'Trackers':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self.close()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Tells of one step of the training; see `Tracker.write`."""
    self._tell(lambda tracker: tracker.write(step, values))

  def finish(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
    """Tells of the evaluation; see `Tracker.finish`."""
    self._tell(lambda tracker: tracker.finish(figures, pictures))

  def close(self) -> None:
    """Has everything sent, and ends."""
    self._tell(lambda tracker: tracker.close())
    self._open.clear()

  def _tell(self, tell: Callable[[Tracker], None]) -> None:
    for name, tracker in list(self._open.items()):
      self._attempt(name, functools.partial(tell, tracker))

  def _attempt(self, name: str, act: Callable[[], Any]) -> Any:
    """What `act` returns; None where it fails, and the tracker is left out from then on."""
    try:
      return act()
    except Exception as error:
      self._open.pop(name, None)
      lines = str(error).splitlines() or [type(error).__name__]
      print(
        f'Note: {self._name}: the tracker {name} failed ({lines[0]}) and is told nothing '
        'more of it; metrics.jsonl and result.json have all figures.',
        flush=True,
      )
      return None


def _find(name: str) -> Any:
  """The class of a tracker; raises UserError where there is none of that name."""
  target = TRACKERS.get(name, name)
  module, _, attribute = target.partition(':')
  if not (module and attribute):
    raise UserError(
      f'--config.train.trackers={name}: there is no such tracker; give some of '
      f'{", ".join(TRACKERS)}, or MODULE:CLASS of your own.'
    )
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise UserError(
      f'--config.train.trackers={name}: {error}; a tracker of your own must be found by '
      'Python, for example from a folder that PYTHONPATH names.'
    ) from error


def finish(
  names: Iterable[str],
  folder: Path,
  step: int,
  fields: Mapping[str, Any],
  result: Mapping[str, Any],
) -> None:
  """Tells trackers what the evaluation of a model found.

  Args:
    names: names of trackers: some of `TRACKERS`, or `module:Class`.
    folder: folder of the model, with its pictures.
    step: number of the last step of its training.
    fields: the config, {'section.field': value}.
    result: what result.json holds, with 'metrics' and 'costs'.

  Raises:
    UserError: there is no such tracker.
  """
  figures = result['metrics'] | {k: v for k, v in result['costs'].items() if v is not None}
  pictures = {path.stem: path for path in sorted(folder.glob('*.png'))}
  with Trackers(names, Place.of(folder, step, fields)) as trackers:
    trackers.finish(figures, pictures)
