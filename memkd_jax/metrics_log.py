"""metrics.jsonl: the losses of a run, one JSON object a line."""

import json
from pathlib import Path
from types import TracebackType

from memkd_jax import files


class MetricsLog:
  """Appends lines whose `step` strictly increases, also across resumes."""

  def __init__(self, path: Path, step: int):
    """Opens the log, and drops the lines after `step`, where training resumes."""
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    files.write_text(path, ''.join(f'{line}\n' for line in lines if _step(line) <= step))
    self._file = path.open('a', encoding='utf-8')

  def __enter__(self) -> 'MetricsLog':
    return self

  def __exit__(
    self, kind: type | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._file.close()

  def write(self, values: dict[str, float]) -> None:
    """Appends one line and hands it to the operating system at once."""
    self._file.write(json.dumps(values) + '\n')
    self._file.flush()


def _step(line: str) -> float:
  """The step of a line; a line that a crash cut off counts as later than any."""
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')
