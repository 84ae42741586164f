"""Lays a run's figures beside the paper's: the rows of the report's first table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from memkd_jax.report.paper import BACKBONE, Figures, Mean, PaperTable, differs
from memkd_jax.report.results import mean_over


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table; all figures are percent, by metric.

  Attributes:
    label: the category, or what it is the mean of.
    ours: empty where the category failed.
    deviations: of `ours` over the seeds, empty where there is one.
    paper: empty where the paper prints nothing.
    is_mean: whether it is a mean over categories.
    notes: {metric: footnote of the paper's figure}.
    failure: why there are no figures.
  """

  label: str
  ours: Figures
  deviations: Figures
  paper: Figures = dataclasses.field(default_factory=dict)
  is_mean: bool = False
  notes: dict[str, str] = dataclasses.field(default_factory=dict)
  failure: str | None = None


def compare(results: dict[str, Any], table: PaperTable | None, backbone: str) -> list[Row]:
  """The rows in the paper's order, each mean after its categories.

  A mean stands only where all its categories have figures. Where fewer categories
  than the paper's were run, the paper's mean is that of the same ones; where the
  backbone is another, it is the one that Table 4 prints for it.

  Args:
    results: see `results.assemble`.
    table: what the paper prints, None where it prints nothing.
    backbone: of the run's teacher.
  """
  known = [*results['categories'], *results['failed']]
  if table is None:
    rows = [_category_row(results, None, c) for c in known]
    if len(rows) > 1 and results['mean'] is not None:
      rows.append(_mean_row(results, 'mean', list(results['categories'])))
    return rows
  rows = []
  in_paper = [c for c in table.figures if c in known]
  for category in [*in_paper, *(c for c in known if c not in in_paper)]:
    rows.append(_category_row(results, table, category))
    rows += [
      _group_row(results, table, mean)
      for mean in table.means
      if not mean.over_all
      and mean.categories[-1] == category
      and all(c in results['categories'] for c in mean.categories)
    ]
  if len(rows) > 1 and results['mean'] is not None:
    overall = next(mean for mean in table.means if mean.over_all)
    rows.append(_overall_row(results, table, overall, backbone))
  return rows


def subtract(ours: float, paper: float) -> float:
  """The difference of two figures as they are printed, with one decimal."""
  return round(round(ours, 1) - round(paper, 1), 1)


def _category_row(results: dict[str, Any], table: PaperTable | None, category: str) -> Row:
  return Row(
    label=category,
    ours=_percent(results['categories'].get(category, {})),
    deviations=_percent(results['deviations'].get(category, {})),
    paper=table.figures.get(category, {}) if table else {},
    failure=results['failed'].get(category),
  )


def _group_row(results: dict[str, Any], table: PaperTable, mean: Mean) -> Row:
  recomputed = table.recompute(mean.categories)
  notes = {
    m: f'As printed; the mean of the printed column is {recomputed[m]:.1f}.'
    for m in table.metrics
    if differs(mean.printed[m], recomputed[m])
  }
  return _mean_row(results, mean.label, mean.categories, mean.printed, notes)


def _overall_row(results: dict[str, Any], table: PaperTable, mean: Mean, backbone: str) -> Row:
  categories = [c for c in mean.categories if c in results['categories']]
  if len(categories) < len(mean.categories):
    label = f'mean of these {len(categories)}'
    note = f'Recomputed from the figures that the paper prints for these {len(categories)}.'
    notes = dict.fromkeys(table.metrics, note)
    return _mean_row(results, label, categories, table.recompute(categories), notes)
  if backbone != BACKBONE and backbone in table.backbones:
    notes = {
      m: f'Table 4, with {backbone}; with {BACKBONE} the paper prints {mean.printed[m]:.1f}.'
      for m in table.metrics
    }
    return _mean_row(results, mean.label, categories, table.backbones[backbone], notes)
  return _group_row(results, table, mean)


def _mean_row(
  results: dict[str, Any],
  label: str,
  categories: Sequence[str],
  paper: Figures | None = None,
  notes: dict[str, str] | None = None,
) -> Row:
  ours, deviations = mean_over(list(results['per_seed'].values()), categories)
  return Row(
    label, _percent(ours), _percent(deviations), paper or {}, is_mean=True, notes=notes or {}
  )


def _percent(figures: dict[str, float]) -> Figures:
  return {metric: 100 * value for metric, value in figures.items()}
