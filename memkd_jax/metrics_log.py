"""The losses of a run as files: JSON lines, and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from memkd_jax import files, processes
from memkd_jax.errors import UserError


class Writer(Protocol):
  """Takes the figures of a step; steps strictly increase, also across resumes."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the figures of one step."""

  def close(self) -> None:
    """Ends the file."""


class JsonLines:
  """metrics.jsonl: one JSON object a line, handed to the operating system at once."""

  def __init__(self, folder: Path, step: int):
    """Opens the log, and drops the lines after `step`, where training resumes."""
    path = folder / 'metrics.jsonl'
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    files.write_text(path, ''.join(f'{line}\n' for line in lines if _step(line) <= step))
    self._file = path.open('a', encoding='utf-8')

  def write(self, step: int, values: dict[str, float]) -> None:
    self._file.write(json.dumps({'step': step} | values) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def check_tensorboard() -> Any:
  """The class that writes event files.

  Raises:
    UserError: its package is not installed.
  """
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise UserError(
      '--config.train.tensorboard=True needs: pip install "memkd_jax[tensorboard]".'
    ) from error
  return SummaryWriter


class TensorBoard:
  """An event file in tensorboard/, to be looked at with `tensorboard --logdir`."""

  def __init__(self, folder: Path, step: int):
    """Opens a new event file, which hides what older ones hold after `step`."""
    self._writer = check_tensorboard()(str(folder / 'tensorboard'), purge_step=step + 1)

  def write(self, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    self._writer.close()


class MetricsLog:
  """Hands the figures of each step to all writers; a context manager.

  Only the first of several processes writes.
  """

  def __init__(self, folder: Path, step: int, tensorboard: bool = False):
    """Opens the files.

    Args:
      folder: of the category's run.
      step: where training starts or resumes.
      tensorboard: whether event files are written beside the JSON lines.

    Raises:
      UserError: they are wanted, and the package that writes them is not installed.
    """
    self._writers: list[Writer] = []
    if not processes.is_first():
      return
    self._writers.append(JsonLines(folder, step))
    if tensorboard:
      self._writers.append(TensorBoard(folder, step))

  def __enter__(self) -> 'MetricsLog':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    for writer in self._writers:
      writer.close()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the figures of one step."""
    for writer in self._writers:
      writer.write(step, values)


def _step(line: str) -> float:
  """The step of a line; a line that a crash cut off counts as later than any."""
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')
