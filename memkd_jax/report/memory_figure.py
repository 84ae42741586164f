"""memory.png: whether each memory of a category recalls or merely averages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
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
      the mean weight of each item, [L]; and, where there are several categories,
      'usage_by_category', the same of each, drawn beside it.
    cosines: {'m<m>': (cosines at normal positions [N], at anomalous positions [M])} of
      each feature and what the memory recalls for it; either may be empty.
    course: the lines that the training logged, each {'step': int, 'm<m>_entropy',
      'm<m>_keys_cosine', 'm<m>_values_cosine': float}; a curve is empty where lines
      lack its term.
  """
  rows = sorted(summaries)
  several = any('usage_by_category' in summaries[name] for name in rows)
  figure = Figure(figsize=(10.8 if several else 7.2, 2.4 * len(rows)), layout='constrained')
  axes = figure.subplots(len(rows), 4 if several else 3, squeeze=False)
  for name, (usage, histogram, training, *categories) in zip(rows, axes, strict=True):
    if categories:
      _draw_categories(figure, categories[0], summaries[name])
    summary, title = summaries[name], f'M_{name[1:]}'
    items = len(summary['usage'])
    # Outlines are drawn faster than a bar for each item and bin.
    edges = np.arange(items + 1) - 0.5
    usage.stairs(sorted(summary['usage'], reverse=True), edges, fill=True)
    usage.axhline(1 / items, color='black', linestyle=':', label='all alike')
    usage.set(xlabel='item, most used first', ylim=(0, None))
    usage.legend(loc='upper right', fontsize=7.5)
    for values, label, color in zip(cosines[name], ('normal', 'anomalous'), 'br', strict=True):
      if values.size:
        heights, edges = np.histogram(values, bins=40, density=True)
        histogram.stairs(heights, edges, fill=True, alpha=0.5, color=color, label=label)
    histogram.set(xlabel='cosine', yticks=[])
    histogram.legend(loc='upper left', fontsize=7.5)
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


def _draw_categories(figure: Figure, axes: Axes, summary: Mapping[str, Any]) -> None:
  """Which items serve which category: its mean weights over those of all categories."""
  by_category = summary['usage_by_category']
  weights = np.array(list(by_category.values()))
  ratios = weights / np.maximum(weights.mean(axis=0), np.finfo(float).tiny)
  serves = ratios.argmax(axis=0)
  order = np.lexsort((-ratios.max(axis=0), serves))  # a staircase, where items are shared out
  image = axes.imshow(
    ratios[:, order], aspect='auto', interpolation='nearest', cmap='RdBu_r', vmin=0, vmax=2
  )
  axes.set_yticks(range(len(by_category)), list(by_category), fontsize=7)
  axes.set_xlabel('item, by the category that it serves most')
  information = summary['category_information']
  axes.set_title(f'weight / mean of categories\n(information {information:.4f})', fontsize=10)
  figure.colorbar(image, ax=axes, extend='max')
