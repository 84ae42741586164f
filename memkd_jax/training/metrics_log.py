"""The losses of a training as JSON lines, and for trackers."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from memkd_jax.files import atomic
from memkd_jax.files.reading import open_regular, parse_json
from memkd_jax.runtime import hosts
from memkd_jax.trackers import Trackers
from memkd_jax.trackers.tracker import Place


class JsonLines:
  """metrics.jsonl: one JSON object a line, handed to the operating system at once."""

  def __init__(self, folder: Path, step: int, name: str = 'metrics.jsonl'):
    """Opens the log, and drops the lines after `step`, where training resumes."""
    self._path = folder / name
    kept = [json.dumps(line) for line in read(self._path) if line['step'] <= step]
    atomic.write_text(self._path, ''.join(f'{line}\n' for line in kept))
    self._file = self._path.open('ab', buffering=0)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the figures of one step; steps strictly increase, also across resumes."""
    line = (json.dumps({'step': step, **values}) + '\n').encode()
    with atomic.naming(self._path):
      while line:  # where the disk is full, less than all is taken at first
        line = line[self._file.write(line) :]

  def close(self) -> None:
    """Ends the file."""
    self._file.close()


class MetricsLog:
  """Hands the figures of each step to metrics.jsonl and all trackers; a context manager.

  Only the first of several processes writes.
  """

  def __init__(
    self,
    folder: Path,
    step: int,
    trackers: Iterable[str] = (),
    fields: Mapping[str, Any] | None = None,
  ):
    """Opens the file, and the trackers.

    Args:
      folder: folder of the model.
      step: the step at which training starts or resumes.
      trackers: the names of those that are told as well, see `trackers`.
      fields: the config that trackers are told, {'section.field': value}.

    Raises:
      UserError: there is no such tracker.
    """
    self._lines: JsonLines | None = None
    if hosts.is_main():
      self._lines = JsonLines(folder, step)
      self._trackers = Trackers(trackers, Place.of(folder, step, fields or {}))

  def __enter__(self) -> 'MetricsLog':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._lines is not None:
      self._lines.close()
      self._trackers.close()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the figures of one step."""
    if self._lines is not None:
      self._lines.write(step, values)
      self._trackers.write(step, values)


def read(path: Path) -> list[dict[str, Any]]:
  """The lines of a metrics.jsonl; those that a crash cut off or that are damaged are left out.

  Args:
    path: the file, which may be missing.

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
