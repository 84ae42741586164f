"""sweep.html: all variants of a sweep on one page, which needs no other file.

The markup is in variants.html.j2.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memkd_jax.files import atomic
from memkd_jax.report import cases, variants
from memkd_jax.report.html import DATASETS, TEMPLATES, Picture, read_picture
from memkd_jax.report.results import figure_cell
from memkd_jax.scoring.figures import METRICS


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table of texts.

  Attributes:
    caption: a sentence on what the grid shows.
    columns: the heads of its columns.
    rows: (label, cells); a cell is (text, whether it is the best of its column).
  """

  caption: str
  columns: list[str]
  rows: list[tuple[str, list[tuple[str, bool]]]]


def write_page(root: Path, summary: Mapping[str, Any], folders: Mapping[str, str]) -> Path:
  """Writes sweep.html.

  Args:
    root: the folder of the sweep, with one of each variant.
    summary: the figures of all variants, as `sweep.run_sweep` returns them.
    folders: {variant: the name of its run's folder in `root`}.

  Returns:
    The path of the page.
  """
  finished = {name: results for name, results in summary['variants'].items() if results}
  categories = list(dict.fromkeys(c for r in finished.values() for c in r['categories']))
  datasets = {results['dataset'] for results in finished.values()}
  environments = [results['environment'] for results in finished.values()]
  page = TEMPLATES.get_template('variants.html.j2').render(
    title=' and '.join(DATASETS.get(name, name) for name in sorted(datasets)),
    summary=summary,
    environment=environments[-1] if environments else None,
    seeds=next(iter(finished.values()))['seeds'] if finished else [],
    notes=variants.notes(summary),
    overview=_overview(summary),
    costs=_costs(summary),
    costs_note=variants.COSTS_NOTE,
    by_category=_by_category(finished, categories) if len(categories) > 1 else [],
    categories=[
      {
        'name': category,
        'defects': _by_defect(finished, category),
        'strips': _strips(root, finished, folders, category),
      }
      for category in categories
    ],
    reports={name: f'{folders[name]}/report.html' for name in finished},
  )
  path = root / 'sweep.html'
  atomic.write_text(path, page)
  return path


def _overview(summary: Mapping[str, Any]) -> Grid:
  """A row a variant: means over the categories, and what the paper prints."""
  printed = variants.printed_figures(summary)
  means = {name: variants.mean_figures(r) for name, r in summary['variants'].items()}
  metrics = [m for m in METRICS if any(m in figures for figures, _ in means.values())]
  compared = [m for m in metrics if any(m in figures for figures in printed.values())]
  best = _best([figures for figures, _ in means.values()], metrics)
  rows = []
  for name, (figures, deviations) in means.items():
    cells = [(figure_cell(m, figures, deviations), figures.get(m) == best[m]) for m in metrics]
    for metric in compared:
      value = printed.get(name, {}).get(metric)
      cells.append(('-' if value is None else f'{value:.1f}', False))
    rows.append((name, cells))
  heads = [*metrics, *(f'{m} (paper)' for m in compared)]
  return Grid('Means over the categories, in percent', heads, rows)


def _costs(summary: Mapping[str, Any]) -> Grid:
  """A row a variant: what one of its models costs."""
  costs = {name: variants.mean_costs(r) for name, r in summary['variants'].items()}
  shown = [c for c in variants.COSTS if any(c.key in of for of in costs.values())]
  rows = [
    (name, [(c.format(of[c.key]) if c.key in of else '-', False) for c in shown])
    for name, of in costs.items()
  ]
  return Grid('What a model costs', [cost.title for cost in shown], rows)


def _by_category(finished: Mapping[str, Any], categories: Sequence[str]) -> list[Grid]:
  """A table a metric: a row a category, a column a variant."""
  grids = []
  for metric in METRICS:
    rows = []
    for category in categories:
      found = {
        name: results['categories'].get(category, {}) for name, results in finished.items()
      }
      spread = {name: r['deviations'].get(category, {}) for name, r in finished.items()}
      if any(metric in figures for figures in found.values()):
        rows.append((category, _row(metric, found, spread)))
    if rows:
      grids.append(Grid(f'{metric} by category, in percent', list(finished), rows))
  return grids


def _by_defect(finished: Mapping[str, Any], category: str) -> list[Grid]:
  """A table a metric: a row a kind of defect, a column a variant."""
  of_variant = {name: r['defects'].get(category, {}) for name, r in finished.items()}
  kinds = list(dict.fromkeys(kind for of in of_variant.values() for kind in of))
  grids = []
  for metric in ('I-AUC', 'P-PRO'):
    rows = []
    for kind in kinds:
      found = {name: of.get(kind, {}) for name, of in of_variant.items()}
      if any(metric in figures for figures in found.values()):
        rows.append((kind, _row(metric, found, {})))
    if rows:
      caption = f'{metric} by kind of defect, against all normal images, in percent'
      grids.append(Grid(caption, list(finished), rows))
  return grids


def _row(
  metric: str,
  figures: Mapping[str, Mapping[str, float]],
  deviations: Mapping[str, Mapping[str, float]],
) -> list[tuple[str, bool]]:
  """A cell a variant, of {variant: {metric: 0..1}} each."""
  highest = _best(list(figures.values()), [metric])[metric]
  return [
    (figure_cell(metric, dict(of), dict(deviations.get(name, {}))), of.get(metric) == highest)
    for name, of in figures.items()
  ]


def _best(
  figures: Sequence[Mapping[str, float]], metrics: Sequence[str]
) -> dict[str, float | None]:
  """The highest of each metric among several; None where there is but one."""
  several = len(figures) > 1
  return {
    m: max((of[m] for of in figures if m in of), default=None) if several else None
    for m in metrics
  }


def _strips(
  root: Path, finished: Mapping[str, Any], folders: Mapping[str, str], category: str
) -> dict[str, Picture]:
  """The same test images, and each variant's maps of them: {label: picture}."""
  strips: dict[str, Picture] = {}
  for name, results in finished.items():
    folder = root / folders[name] / category / f'seed_{results["seeds"][0]}' / cases.FOLDER
    wanted = {name: 'map'} if strips else {'image': 'image', 'truth': 'truth', name: 'map'}
    for label, file in wanted.items():
      if picture := read_picture(folder / f'{file}.png'):
        strips[label] = picture
  return strips
