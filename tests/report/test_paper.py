import csv
from pathlib import Path

import pytest

from memkd_jax.data.benchmarks import mvtec_ad
from memkd_jax.report.paper import differs, load_table

PAPER = Path(__file__).parents[2] / 'memkd_jax' / 'report' / 'paper'


@pytest.mark.parametrize('method', ['MemKD', 'RD'])
@pytest.mark.parametrize(
  ('dataset', 'file', 'columns'),
  [
    ('mvtec_ad', 'table1_mvtec_image_auroc.csv', {'I-AUC': ''}),
    ('mvtec_ad', 'table2_mvtec_pixel_auroc_pro.csv', {'P-AUC': '_P-AUC', 'P-PRO': '_P-PRO'}),
    ('mpdd', 'table3b_mpdd.csv', {m: f'_{m}' for m in ('I-AP', 'I-AUC', 'P-AP', 'P-PRO')}),
  ],
)
def test_figures_are_those_of_the_file(dataset, method, file, columns):
  table = load_table(dataset, method)
  rows = list(csv.DictReader((PAPER / file).read_text().splitlines()))
  seen = set()
  for row in rows:
    for metric, suffix in columns.items():
      if row['category'] in table.figures:
        seen.add(row['category'])
        assert table.figures[row['category']][metric] == float(row[method + suffix])
  assert seen == set(table.figures)


def test_the_files_are_the_papers(shared):
  for path in PAPER.iterdir():
    assert path.read_bytes() == (shared / 'paper' / path.name).read_bytes()


def test_mvtec_has_the_papers_order_and_means():
  table = load_table('mvtec_ad', 'MemKD')
  assert list(table.figures)[:6] == ['carpet', 'grid', 'leather', 'tile', 'wood', 'bottle']
  assert sorted(table.figures) == list(mvtec_ad.CATEGORIES)
  assert table.metrics == ('I-AUC', 'P-AUC', 'P-PRO')
  textures, objects, overall = table.means
  assert textures.categories == ('carpet', 'grid', 'leather', 'tile', 'wood')
  assert textures.printed == {'I-AUC': 99.8, 'P-AUC': 97.8, 'P-PRO': 95.2}
  assert objects.categories == tuple(table.figures)[5:]
  assert overall.categories == tuple(table.figures)
  assert [mean.over_all for mean in table.means] == [False, False, True]
  assert overall.printed == {'I-AUC': 99.6, 'P-AUC': 98.2, 'P-PRO': 94.5}
  assert table.backbones['resnet18'] == {'I-AUC': 98.6, 'P-AUC': 97.3, 'P-PRO': 92.4}
  assert table.backbones['wide_resnet50_2'] == overall.printed
  assert load_table('mvtec_ad', 'RD').backbones == {}


def test_printed_means_that_are_not_those_of_their_columns():
  table = load_table('mpdd', 'MemKD')
  assert table.metrics == ('I-AP', 'I-AUC', 'P-AP', 'P-AUC', 'P-PRO')
  (mean,) = table.means
  recomputed = table.recompute(mean.categories)
  assert mean.printed['I-AUC'] == 95.4
  assert recomputed['I-AUC'] == pytest.approx(95.8833, abs=1e-3)
  wrong = [m for m in table.metrics if differs(mean.printed[m], recomputed[m])]
  assert wrong == ['I-AUC', 'P-PRO']
  assert not differs(45.5, 45.55)  # rounded down rather than up


@pytest.mark.parametrize(
  ('dataset', 'method'),
  [('mvtec_3d', 'MemKD'), ('eyecandies', 'MemKD'), ('folder', 'RD'), ('visa', 'RD')],
)
def test_where_the_paper_prints_nothing(dataset, method):
  assert load_table(dataset, method) is None
