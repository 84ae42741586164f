"""memory.png: whether each memory of a category recalls or merely averages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from memkd_jax.files import atomic


def write_memory_figure(
  path: Path,
  summaries: Mapping[str, Mapping[str, Any]],
  cosines: Mapping[str, tuple[np.ndarray, np.ndarray]],
  course: Sequence[Mapping[str, Any]],
) -> None:
  """Draws a row for each memory: usage of its items, cosines, and its course in training.

  Args:
    path: the PNG to write.
    summaries: {'m<m>': what is known of the memory of stage m}, of which 'usage' is read:
      the mean weight of each item, [L].
    cosines: {'m<m>': (cosines at normal positions [N], at anomalous positions [M])} of
      each feature and what the memory recalls for it; either may be empty.
    course: the lines that the training logged, each {'step': int, 'm<m>_entropy',
      'm<m>_keys_cosine', 'm<m>_values_cosine': float}; a curve is empty where lines
      lack its term.
  """
  rows = sorted(summaries)
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
