"""results.json and results.md: the figures of all categories of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax import files
from memkd_jax.protocol import METRICS
from memkd_jax.workdir import Workdir


def collect(
  workdir: Workdir,
  config: ConfigDict,
  categories: Sequence[str],
  failed: dict[str, str],
  notes: Sequence[str] = (),
) -> dict[str, Any]:
  """Gathers the finished results of a run's folder.

  Args:
    workdir: the folder.
    config: the resolved config.
    categories: those asked for; others that were finished earlier come after.
    failed: reason by category.
    notes: sentences that must stand beside the figures.

  Returns:
    {'dataset', 'seeds', 'categories': {category: {metric: 0..1}}, 'counts',
    'mean': {metric: 0..1} or None where a category failed, 'failed', 'notes'}.
    The mean is unweighted, of the metrics that every category has.
  """
  others = [c for c in workdir.finished(config.seed) if c not in categories]
  wanted = [c for c in [*categories, *others] if c not in failed]
  read = {c: workdir.read_result(c, config.seed) for c in wanted}
  results = {c: result for c, result in read.items() if result is not None}
  return assemble(config.data.dataset, [config.seed], results, failed, notes)


def assemble(
  dataset: str,
  seeds: Sequence[int],
  results: dict[str, dict[str, Any]],
  failed: dict[str, str],
  notes: Sequence[str],
) -> dict[str, Any]:
  """Puts categories together to what `collect` returns.

  Args:
    dataset: its name.
    seeds: of the runs; none for maps that somebody else made.
    results: {category: {'metrics': ..., 'counts': ...}}.
    failed: reason by category.
    notes: sentences that must stand beside the figures.
  """
  figures = {category: result['metrics'] for category, result in results.items()}
  mean = None
  if figures and not failed:
    shared = [m for m in METRICS if all(m in f for f in figures.values())]
    mean = {m: float(np.mean([f[m] for f in figures.values()])) for m in shared}
  notes = list(notes)
  without_masks = [c for c, f in figures.items() if 'P-AUC' not in f]
  if without_masks:
    notes.append(
      f'There are no ground-truth masks for {", ".join(without_masks)}: no pixel metrics.'
    )
  return {
    'dataset': dataset,
    'seeds': list(seeds),
    'categories': figures,
    'counts': {category: result['counts'] for category, result in results.items()},
    'mean': mean,
    'failed': failed,
    'notes': notes,
  }


def write_results(folder: Path, results: dict[str, Any]) -> None:
  """Writes results.json and results.md."""
  files.write_json(folder / 'results.json', results)
  files.write_text(folder / 'results.md', results_table(results))


def results_table(results: dict[str, Any]) -> str:
  """The results as Markdown that also reads well on a terminal, in percent."""
  figures = dict(results['categories'])
  if results['mean'] is not None and len(figures) > 1:
    figures['mean'] = results['mean']
  columns = [m for m in METRICS if any(m in f for f in figures.values())] or ['I-AUC']
  rows = [
    [category, *(f'{100 * f[m]:.1f}' if m in f else '-' for m in columns)]
    for category, f in figures.items()
  ]
  rows += [[category, 'failed', *[''] * (len(columns) - 1)] for category in results['failed']]
  table = _markdown([f'{results["dataset"]} (%)', *columns], rows)
  lines = [table, '']
  if results['seeds']:
    lines.append(f'Seed {", ".join(str(seed) for seed in results["seeds"])}.')
  lines += [f'{category} failed: {reason}' for category, reason in results['failed'].items()]
  lines += results['notes']
  return '\n'.join(lines) + '\n'


def _markdown(header: list[str], rows: list[list[str]]) -> str:
  widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

  def line(cells: list[str]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return '| ' + ' | '.join([first, *rest]) + ' |'

  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  return '\n'.join([line(header), line(rule), *(line(row) for row in rows)])
