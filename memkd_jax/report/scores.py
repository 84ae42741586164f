"""scores.csv: what the model says of each test image and of each image held out."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from memkd_jax.files import atomic

_DIGITS = 6  # float32 holds no more


class ScoredImage(NamedTuple):
  """One row.

  Attributes:
    image: the sample's id, the path of its image below the category's folder.
    split: 'test' or 'held out'.
    defect: 'good', or the kind of defect.
    score: the image's anomaly score, raw.
    p_value: probability of such a score among normal images; None without calibration.
    decision: 'anomalous' or 'normal'; None without a threshold.
  """

  image: str
  split: str
  defect: str
  score: float
  p_value: float | None
  decision: str | None


def write_scores(path: Path, rows: Iterable[ScoredImage]) -> None:
  """Writes the rows, highest score first within each split, complete or not at all."""
  buffer = io.StringIO(newline='')
  writer = csv.writer(buffer)
  writer.writerow(ScoredImage._fields)
  for row in sorted(rows, key=lambda row: (row.split != 'test', -row.score, row.image)):
    numbers = ['' if x is None else f'{x:.{_DIGITS}g}' for x in (row.score, row.p_value)]
    writer.writerow([row.image, row.split, row.defect, *numbers, row.decision])
  atomic.write_text(path, buffer.getvalue())
