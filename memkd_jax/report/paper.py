"""The figures that the paper prints: Tables 1 to 6 of its supplementary, as they stand there.

The csv files in paper/ hold them in percent. Tables 1 and 2 are of MVTec AD,
3 (a) of VisA, 3 (b) of MPDD; 4, 5 and 6 have means on MVTec AD by backbone, by
distilled stages and by memories.
"""

import csv
import dataclasses
from collections.abc import Collection
from importlib import resources

BACKBONE = 'wide_resnet50_2'  # of the figures by category
ABLATIONS = ('table4_backbones', 'table5_stages', 'table6_memories')

_FILES = {
  'mvtec_ad': ('table1_mvtec_image_auroc.csv', 'table2_mvtec_pixel_auroc_pro.csv'),
  'visa': ('table3a_visa.csv',),
  'mpdd': ('table3b_mpdd.csv',),
}
_SOURCES = {'mvtec_ad': 'Tables 1 and 2', 'visa': 'Table 3 (a)', 'mpdd': 'Table 3 (b)'}
_MEANS = {
  'texture_average': 'average of textures',
  'object_average': 'average of objects',
  'total_average': 'average',
  'mean': 'mean',
}
_OVER_ALL = ('total_average', 'mean')
_DOUBTS = {
  ('visa', 'MemKD'): {
    'I-AP': 'As printed; within 0.3 of the P-AUC column in nine of the twelve rows, which is '
    'unlikely for two such different metrics.'
  }
}

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Mean:
  """A row of means.

  Attributes:
    label: the row's name for people.
    categories: the names of those that the mean is taken over, in the paper's order.
    printed: {metric: percent}, which need not be the mean of the printed column.
    over_all: whether the mean is over all categories.
  """

  label: str
  categories: tuple[str, ...]
  printed: Figures
  over_all: bool


@dataclasses.dataclass(frozen=True)
class PaperTable:
  """What the paper prints of one method on one data set, all in percent.

  Attributes:
    source: the name of the table in the supplementary, for people.
    metrics: the columns, by their names in `scoring.figures`, in the paper's order.
    figures: {category: {metric: percent}}, in the paper's order.
    means: the rows of means in the paper's order; each stands after the last of its
      categories.
    backbones: {backbone: {metric: percent}}, means over all categories (Table 4);
      empty where the paper prints none.
    doubts: {metric: what a reader should know of the column}.
  """

  source: str
  metrics: tuple[str, ...]
  figures: dict[str, Figures]
  means: tuple[Mean, ...]
  backbones: dict[str, Figures]
  doubts: dict[str, str]

  def recompute(self, categories: Collection[str]) -> Figures:
    """The mean of the printed figures of some categories: {metric: percent}."""
    return {
      m: sum(self.figures[c][m] for c in categories) / len(categories) for m in self.metrics
    }


def load_table(dataset: str, method: str) -> PaperTable | None:
  """What the paper prints of a method on a data set.

  Args:
    dataset: the data set's name in configs.
    method: 'MemKD', 'RD', or another method that may have a column in the tables.

  Returns:
    The method's figures, None where the paper prints none.
  """
  rows: dict[str, Figures] = {}
  for file in _FILES.get(dataset, ()):
    for name, printed in _read(file, method).items():
      rows.setdefault(name, {}).update(printed)
  metrics = tuple(next(iter(rows.values()), {}))
  if not metrics:
    return None
  figures = {name: f for name, f in rows.items() if name not in _MEANS}
  means = []
  group: list[str] = []
  for name, printed in rows.items():
    if name in _MEANS:
      over_all = name in _OVER_ALL
      categories = tuple(figures if over_all else group)
      means.append(Mean(_MEANS[name], categories, printed, over_all))
      group = []
    else:
      group.append(name)
  has_backbones = (dataset, method) == ('mvtec_ad', 'MemKD')
  return PaperTable(
    source=_SOURCES[dataset],
    metrics=metrics,
    figures=figures,
    means=tuple(means),
    backbones=load_rows('table4_backbones') if has_backbones else {},
    doubts=_DOUBTS.get((dataset, method), {}),
  )


def load_rows(name: str) -> dict[str, Figures]:
  """A table of means over MVTec AD: {row: {metric: percent}}.

  Args:
    name: the table's name, one of `ABLATIONS`.
  """
  return {
    label: {metric: float(value) for metric, value in figures}
    for (_, label), *figures in (row.items() for row in _rows(f'{name}.csv'))
  }


def differs(printed: float, recomputed: float) -> bool:
  """Whether two figures in percent differ by more than rounding to one decimal can."""
  return abs(printed - recomputed) > 0.05 + 1e-9


def _read(file: str, method: str) -> dict[str, Figures]:
  """{category or mean: {metric: percent}} of one method."""
  return {
    row['category']: {
      _metric(column): float(value)
      for column, value in row.items()
      if column.split('_')[0] == method and value
    }
    for row in _rows(file)
  }


def _metric(column: str) -> str:
  _, _, metric = column.partition('_')
  return metric or 'I-AUC'  # Table 1 has no other


def _rows(file: str) -> list[dict[str, str]]:
  text = (resources.files(__package__) / 'paper' / file).read_text(encoding='utf-8')
  return list(csv.DictReader(text.splitlines()))
