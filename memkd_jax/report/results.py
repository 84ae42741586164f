"""results.json and results.md: the figures of all categories of a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.files import atomic
from memkd_jax.scoring.figures import METRICS
from memkd_jax.workdir import Workdir


def collect(
  workdir: Workdir,
  config: ConfigDict,
  method: str,
  categories: Sequence[str],
  failed: dict[str, str],
  notes: Sequence[str] = (),
) -> dict[str, Any]:
  """Gathers the finished results of a run's folder.

  Args:
    workdir: the folder of the run whose results are collected.
    config: the resolved config, of which the seeds and the data set's name are read.
    method: the method's name for people: 'MemKD', 'RD', ...
    categories: the names asked for; others that were finished earlier come after them.
    failed: the categories without a model, {category: reason}.
    notes: sentences that must stand beside the figures.

  Returns:
    What `assemble` returns.

  Raises:
    UserError: a result is damaged.
  """
  seeds = list(config.seeds)
  finished = [set(workdir.finished(seed)) for seed in seeds]
  others = sorted(set.intersection(*finished) - set(categories))
  runs = []
  for seed in seeds:
    read = {c: workdir.read_result(c, seed) for c in [*categories, *others] if c not in failed}
    runs.append({c: result for c, result in read.items() if result is not None})
  return assemble(config.data.dataset, method, seeds, runs, failed, notes)


def assemble(
  dataset: str,
  method: str,
  seeds: Sequence[int],
  runs: Sequence[dict[str, dict[str, Any]]],
  failed: dict[str, str],
  notes: Sequence[str],
) -> dict[str, Any]:
  """Puts the figures of all categories and seeds together.

  Args:
    dataset: the data set's name in configs.
    method: the method's name for people; '' for maps that somebody else made.
    seeds: the seed of each run; empty for maps that somebody else made.
    runs: {category: {'metrics', 'counts', perhaps 'notes', 'defects', 'costs'}} for each
      seed.
    failed: the categories without a model, {category: reason}.
    notes: sentences that must stand beside the figures.

  Returns:
    {'dataset', 'method', 'seeds', 'categories': {category: {metric: 0..1}}, 'counts',
    'mean': {metric: 0..1} or None where a category failed, 'deviations': {category
    or 'mean': {metric: 0..1}}, 'per_seed': {seed: {category: {metric: 0..1}}}, 'defects':
    {category: {kind: {metric: 0..1}}}, 'costs': {category: {'fit_seconds', 'fit_memory',
    'model_bytes', 'images_per_second'}} without those that were not measured, 'failed',
    'notes'}. The mean over categories is unweighted, of the metrics that every category
    has. Figures are means over the seeds; deviations are their sample standard deviations,
    empty for a single seed.
  """
  everywhere = [c for c in runs[0] if all(c in run for run in runs)]
  per_seed = [{c: run[c]['metrics'] for c in everywhere} for run in runs]
  figures = {c: _over_seeds([run[c] for run in per_seed], np.mean) for c in everywhere}
  mean = None
  deviations = {}
  if len(runs) > 1:
    deviations = {c: _over_seeds([run[c] for run in per_seed], _deviation) for c in everywhere}
  if figures and not failed:
    mean, deviation_of_mean = mean_over(per_seed, everywhere)
    if deviation_of_mean:
      deviations['mean'] = deviation_of_mean
  notes = list(notes)
  without_masks = [c for c, f in figures.items() if 'I-AUC' in f and 'P-AUC' not in f]
  if without_masks:
    notes.append(
      f'There are no ground-truth masks for {", ".join(without_masks)}: no pixel metrics.'
    )
  notes += dict.fromkeys(n for run in runs for c in everywhere for n in run[c].get('notes', ()))
  return {
    'dataset': dataset,
    'method': method,
    'seeds': list(seeds),
    'categories': figures,
    'counts': {c: runs[0][c]['counts'] for c in everywhere},
    'mean': mean,
    'deviations': deviations,
    'per_seed': {str(seed): run for seed, run in zip(seeds, per_seed, strict=bool(seeds))},
    'defects': {
      c: {
        kind: _over_seeds([run[c]['defects'][kind] for run in runs], np.mean)
        for kind in runs[0][c].get('defects', {})
      }
      for c in everywhere
    },
    'costs': {c: _over_seeds([_measured(run[c]) for run in runs], np.mean) for c in everywhere},
    'failed': failed,
    'notes': notes,
  }


def _measured(result: dict[str, Any]) -> dict[str, float]:
  return {name: cost for name, cost in result.get('costs', {}).items() if cost is not None}


def mean_over(
  per_seed: Sequence[dict[str, dict[str, float]]], categories: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
  """The unweighted mean over categories, of the metrics that all of them have.

  Args:
    per_seed: {category: {metric: 0..1}} for each seed.
    categories: names over which the mean is taken, at least one.

  Returns:
    ({metric: mean over the seeds}, {metric: standard deviation of the seeds' means}); the
    second is empty for a single seed.
  """
  means = [_mean_over_categories({c: run[c] for c in categories}) for run in per_seed]
  deviations = _over_seeds(means, _deviation) if len(means) > 1 else {}
  return _over_seeds(means, np.mean), deviations


def _mean_over_categories(figures: dict[str, dict[str, float]]) -> dict[str, float]:
  shared = [m for m in METRICS if figures and all(m in f for f in figures.values())]
  return {m: float(np.mean([f[m] for f in figures.values()])) for m in shared}


def _over_seeds(
  figures: Sequence[dict[str, float]], statistic: Callable[[list[float]], Any]
) -> dict[str, float]:
  shared = [m for m in figures[0] if all(m in f for f in figures)]
  return {m: float(statistic([f[m] for f in figures])) for m in shared}


def _deviation(values: list[float]) -> float:
  return float(np.std(values, ddof=1))


def write_results(folder: Path, results: dict[str, Any]) -> None:
  """Writes results.json and results.md."""
  atomic.write_json(folder / 'results.json', results)
  atomic.write_text(folder / 'results.md', results_table(results))


def results_table(results: dict[str, Any]) -> str:
  """The results as Markdown that also reads well on a terminal, in percent."""
  figures = dict(results['categories'])
  if results['mean'] is not None and len(figures) > 1:
    figures['mean'] = results['mean']
  columns = [m for m in METRICS if any(m in f for f in figures.values())] or ['I-AUC']
  rows = [
    [category, *(figure_cell(m, f, results['deviations'].get(category, {})) for m in columns)]
    for category, f in figures.items()
  ]
  rows += [[category, 'failed', *[''] * (len(columns) - 1)] for category in results['failed']]
  table = markdown([f'{results["dataset"]} (%)', *columns], rows)
  lines = [table, '']
  if results['seeds']:
    seeds = ', '.join(str(seed) for seed in results['seeds'])
    several = len(results['seeds']) > 1
    lines.append(f'Seeds {seeds}: mean ± standard deviation.' if several else f'Seed {seeds}.')
  lines += [f'{category} failed: {reason}' for category, reason in results['failed'].items()]
  lines += results['notes']
  return '\n'.join(lines) + '\n'


def figure_cell(metric: str, figures: dict[str, float], deviations: dict[str, float]) -> str:
  """A figure in percent with its deviation where there is one; - where there is none."""
  if metric not in figures:
    return '-'
  deviation = f' ± {100 * deviations[metric]:.1f}' if metric in deviations else ''
  return f'{100 * figures[metric]:.1f}{deviation}'


def markdown(header: list[str], rows: list[list[str]]) -> str:
  """A table in Markdown whose columns are aligned; the first to the left."""
  widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

  def line(cells: list[str]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return '| ' + ' | '.join([first, *rest]) + ' |'

  rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
  return '\n'.join([line(header), line(rule), *(line(row) for row in rows)])
