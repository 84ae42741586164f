"""Lays a run's figures beside the paper's: the rows of the report's first table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from memkd_jax.report.paper import BACKBONE, Figures, Mean, PaperTable, differs
from memkd_jax.report.results import mean_over


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table; figures are {metric: percent}.

  Attributes:
    label: the category's name, or which mean the row shows.
    ours: the run's figures; empty where the category failed.
    deviations: standard deviations of `ours` over the seeds; empty for a single seed.
    paper: the paper's figures; empty where it prints none.
    is_mean: whether the row is a mean over categories.
    notes: {metric: footnote of the paper's figure}.
    failure: why the category has no figures, None where it has.
  """

  label: str
  ours: Figures
  deviations: Figures
  paper: Figures = dataclasses.field(default_factory=dict)
  is_mean: bool = False
  notes: dict[str, str] = dataclasses.field(default_factory=dict)
  failure: str | None = None

  def difference(self, metric: str) -> float | None:
    """Ours minus the paper's, both as printed with one decimal; None where one is missing."""
    if metric not in self.ours or metric not in self.paper:
      return None
    return round(round(self.ours[metric], 1) - round(self.paper[metric], 1), 1)


def compare(results: dict[str, Any], table: PaperTable | None, backbone: str) -> list[Row]:
  """Makes the rows in the paper's order, each mean after its categories.

  A mean is left out where one of its categories has no figures. Where a run has fewer
  categories than the paper, the paper's overall mean is recomputed over the run's
  categories; where its backbone is not the paper's main one, the mean that Table 4
  prints for that backbone is taken.

  Args:
    results: the run's results, as `results.assemble` returns them.
    table: the paper's figures, None where it prints none for this data set and method.
    backbone: the teacher's architecture, as in `config.model.backbone`.
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
