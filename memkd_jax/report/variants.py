"""The table of a sweep: a row a variant, its figures, what the paper prints, what it costs."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from memkd_jax.report import paper
from memkd_jax.report.results import figure_cell, markdown
from memkd_jax.scoring.figures import METRICS

_ABLATION_NOTE = (
  'The paper has means over the 15 categories of MVTec AD, and wide_resnet50_2 where no '
  'backbone is named.'
)
_METHODS_NOTE = f"The paper's are means over the same categories, with {paper.BACKBONE}."


class Cost(NamedTuple):
  """A column of what a variant costs; `format` makes text of the mean over the categories."""

  title: str
  key: str
  format: Any


COSTS = (
  Cost('time to fit', 'fit_seconds', lambda x: str(timedelta(seconds=round(x)))),
  Cost('images/s', 'images_per_second', lambda x: f'{x:.1f}'),
  Cost('model (MB)', 'model_bytes', lambda x: f'{x / 1e6:.1f}'),
  Cost('memory to fit (GB)', 'fit_memory', lambda x: f'{x / 1e9:.2f}'),
)

COSTS_NOTE = (
  "Of costs: fitting is one model's, with its teacher's features and all compilations; images "
  'per second are those of whole batches from bytes in memory to maps and scores, and with '
  'memories also to what the report shows of these, which a detector leaves out; a '
  "model's size is without its teacher's; memory is the most that the process held while it "
  'fitted beyond what it held before, so features that variants share count with the first.'
)


def sweep_table(summary: Mapping[str, Any]) -> str:
  """The variants as Markdown: means over the categories, the paper's beside them.

  Args:
    summary: the figures of all variants, as `sweep.run_sweep` returns them.
  """
  printed = printed_figures(summary)
  means = {name: mean_figures(results) for name, results in summary['variants'].items()}
  costs = {name: mean_costs(results) for name, results in summary['variants'].items()}
  columns = [m for m in METRICS if any(m in figures for figures, _ in means.values())]
  compared = {m for figures in printed.values() for m in figures}
  shown = [cost for cost in COSTS if any(cost.key in of for of in costs.values())]
  header, rows = ['variant (%)'], []
  for metric in columns:
    header += [metric, 'paper'] if metric in compared else [metric]
  for name, (figures, deviations) in means.items():
    row = [name]
    for metric in columns:
      row.append(figure_cell(metric, figures, deviations))
      if metric in compared:
        value = printed.get(name, {}).get(metric)
        row.append('-' if value is None else f'{value:.1f}')
    row += [c.format(costs[name][c.key]) if c.key in costs[name] else '-' for c in shown]
    rows.append(row)
  lines = [markdown(header + [cost.title for cost in shown], rows), '']
  lines += [f'{name} failed: {reason}' for name, reason in summary['failed'].items()]
  lines += [COSTS_NOTE] if shown else []
  return '\n'.join([*lines, *notes(summary)]) + '\n'


def notes(summary: Mapping[str, Any]) -> list[str]:
  """The sentences that must stand beside the table, each once."""
  first = []
  if printed_figures(summary):
    first = [_ABLATION_NOTE if summary['paper'] else _METHODS_NOTE]
  found = (
    note for results in summary['variants'].values() if results for note in results['notes']
  )
  return list(dict.fromkeys([*first, *found]))


def printed_figures(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """What the paper prints of each variant, in percent; those that it knows.

  Of an ablation its table; else the mean over the run's categories of what Tables 1 to 3 print
  of the variant's method.
  """
  if summary['paper']:
    return paper.load_rows(summary['paper'])
  found = {}
  for name, results in summary['variants'].items():
    table = paper.load_table(results['dataset'], results['method']) if results else None
    categories = results['categories'] if results else {}
    if table and categories and categories.keys() <= table.figures.keys():
      found[name] = table.recompute(categories)
  return found


def mean_figures(
  results: Mapping[str, Any] | None,
) -> tuple[dict[str, float], dict[str, float]]:
  """Means over the categories, and their deviations over the seeds; {metric: 0..1} each."""
  if results is None or results['mean'] is None:
    return {}, {}
  return results['mean'], results['deviations'].get('mean', {})


def mean_costs(results: Mapping[str, Any] | None) -> dict[str, float]:
  """Means over the categories of what was measured in each."""
  costs = list(results.get('costs', {}).values()) if results else []
  return {
    cost.key: float(np.mean([of[cost.key] for of in costs]))
    for cost in COSTS
    if costs and all(cost.key in of for of in costs)
  }
