"""memory.png: whether each memory of a category recalls or merely averages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from memkd_jax.files import atomic
from memkd_jax.training import metrics_log


def write_memory_figure(
  path: Path,
  summaries: Mapping[str, Mapping[str, Any]],
  cosines: Mapping[str, tuple[np.ndarray, np.ndarray]],
  log: Path,
) -> None:
  """Draws a row for each memory: usage, cosines, and its course in training.

  Args:
    path: the PNG to write.
    summaries: {'m<m>': see `memory_diagnostics.summarize`}.
    cosines: {'m<m>': of normal and of anomalous positions, see
      `memory_diagnostics.split_cosines`}.
    log: metrics.jsonl of the training; may be missing.
  """
  rows = sorted(summaries)
  course = metrics_log.read(log)
  figure = Figure(figsize=(7.2, 2.4 * len(rows)), layout='constrained')
  axes = figure.subplots(len(rows), 3, squeeze=False)
  for name, (usage, histogram, training) in zip(rows, axes, strict=True):
    summary, title = summaries[name], f'M_{name[1:]}'
    items = len(summary['usage'])
    usage.bar(range(items), sorted(summary['usage'], reverse=True), width=1)
    usage.axhline(1 / items, color='black', linestyle=':', label='all alike')
    usage.set(xlabel='item, most used first', ylim=(0, None))
    usage.legend(fontsize=7.5)
    for values, label, color in zip(cosines[name], ('normal', 'anomalous'), 'br', strict=True):
      if values.size:
        histogram.hist(values, bins=40, density=True, alpha=0.5, color=color, label=label)
    histogram.set(xlabel='cosine', yticks=[])
    histogram.legend(fontsize=7.5)
    for term in ('entropy', 'keys_cosine', 'values_cosine'):
      logged = [line for line in course if f'{name}_{term}' in line]
      heights = [line[f'{name}_{term}'] for line in logged]
      training.plot([line['step'] for line in logged], heights, label=term.replace('_', ' '))
    training.set(xlabel='step', ylim=(-0.02, 1.02))
    training.legend(fontsize=7.5)
    usage.set_title(f'{title}: mean weight', fontsize=10)
    histogram.set_title('cosine of feature and recall', fontsize=10)
    training.set_title('during training', fontsize=10)
  with atomic.atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=125)
