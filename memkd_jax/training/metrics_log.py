"""The losses of a run as files: JSON lines, and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.reading import open_regular, parse_json
from memkd_jax.runtime import hosts


class Writer(Protocol):
  """Takes the figures of a step; steps strictly increase, also across resumes."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the figures of one step."""

  def close(self) -> None:
    """Ends the file."""


class JsonLines:
  """metrics.jsonl: one JSON object a line, handed to the operating system at once."""

  def __init__(self, folder: Path, step: int, name: str = 'metrics.jsonl'):
    """Opens the log, and drops the lines after `step`, where training resumes."""
    self._path = folder / name
    kept = [json.dumps(line) for line in read(self._path) if line['step'] <= step]
    atomic.write_text(self._path, ''.join(f'{line}\n' for line in kept))
    self._file = self._path.open('ab', buffering=0)

  def write(self, step: int, values: dict[str, float]) -> None:
    line = (json.dumps({'step': step} | values) + '\n').encode()
    with atomic.naming(self._path):
      while line:  # where the disk is full, less than all is taken at first
        line = line[self._file.write(line) :]

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
    if not hosts.is_main():
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


def read(path: Path) -> list[dict[str, Any]]:
  """The lines of a metrics.jsonl; those that a crash cut off or that are damaged are left out.

  Args:
    path: may be missing.

  Raises:
    OSError: it is there and cannot be read.
  """
  if not path.exists():
    return []
  lines = []
  with open_regular(path) as file:
    for text in file:
      try:
        line = parse_json(text.decode('utf-8'))
      except ValueError:
        continue
      if isinstance(line, dict) and all(type(v) in (int, float) for v in line.values()):
        lines.append(line)
  return [line for line in lines if type(line.get('step')) is int]
