import pytest

from memkd_jax.report.comparison import Row, compare
from memkd_jax.report.paper import load_table
from memkd_jax.report.results import assemble

COUNTS = {'train': 10, 'test_normal': 3, 'test_anomalous': 4}
MPDD = ('bracket_black', 'bracket_brown', 'bracket_white', 'connector', 'metal_plate', 'tubes')


def results_of(dataset, categories, *values, failed=()):
  """Every figure of a seed is its value."""
  metrics = ('I-AUC', 'I-AP', 'P-AUC', 'P-AP', 'P-PRO')
  runs = [
    {c: {'metrics': dict.fromkeys(metrics, v), 'counts': COUNTS} for c in categories}
    for v in values
  ]
  broken = dict.fromkeys(failed, 'broken')
  return assemble(dataset, 'MemKD', range(len(values)), runs, broken, [])


def test_rows_stand_in_the_papers_order():
  table = load_table('mvtec_ad', 'MemKD')
  results = results_of('mvtec_ad', sorted(table.figures), 0.99)
  rows = compare(results, table, 'wide_resnet50_2')
  labels = [row.label for row in rows]
  assert labels[4:7] == ['wood', 'average of textures', 'bottle']
  assert labels[-3:] == ['zipper', 'average of objects', 'average']
  assert rows[-1].is_mean
  assert rows[-1].paper == {'I-AUC': 99.6, 'P-AUC': 98.2, 'P-PRO': 94.5}
  assert rows[-1].ours['I-AUC'] == pytest.approx(99.0)
  assert rows[-1].notes == {}


def test_another_backbone_has_its_own_mean():
  table = load_table('mvtec_ad', 'MemKD')
  rows = compare(results_of('mvtec_ad', table.figures, 0.99), table, 'resnet18')
  assert rows[-1].paper == {'I-AUC': 98.6, 'P-AUC': 97.3, 'P-PRO': 92.4}
  assert rows[-1].notes['I-AUC'].startswith('Table 4, with resnet18; with wide_resnet50_2')
  assert rows[0].paper['I-AUC'] == 99.6


def test_a_mean_that_differs_from_its_column_is_footnoted():
  table = load_table('mpdd', 'MemKD')
  row = compare(results_of('mpdd', MPDD, 0.5), table, 'wide_resnet50_2')[-1]
  assert row.label == 'mean'
  assert row.paper['I-AUC'] == 95.4
  assert row.notes == {
    'I-AUC': 'As printed; the mean of the printed column is 95.9.',
    'P-PRO': 'As printed; the mean of the printed column is 96.0.',
  }


def test_fewer_categories_have_the_mean_of_the_same_ones():
  table = load_table('mpdd', 'MemKD')
  row = compare(results_of('mpdd', MPDD[:2], 0.5), table, 'wide_resnet50_2')[-1]
  assert row.label == 'mean of these 2'
  assert row.paper['I-AUC'] == pytest.approx((91.2 + 95.2) / 2)
  assert 'Recomputed' in row.notes['I-AUC']


def test_a_failed_category_keeps_its_row_and_takes_the_means_it_is_in():
  table = load_table('mvtec_ad', 'MemKD')
  rest = [c for c in table.figures if c != 'zipper']
  rows = compare(results_of('mvtec_ad', rest, 0.9, failed=['zipper']), table, 'resnet18')
  assert (rows[-1].label, rows[-1].failure, rows[-1].ours) == ('zipper', 'broken', {})
  assert [row.label for row in rows if row.is_mean] == ['average of textures']


def test_several_seeds_deviate_in_each_mean():
  table = load_table('mvtec_ad', 'MemKD')
  results = results_of('mvtec_ad', table.figures, 0.75, 0.25)
  rows = compare(results, table, 'wide_resnet50_2')
  for row in rows:
    assert row.ours['P-PRO'] == pytest.approx(50)
    assert row.deviations['P-PRO'] == pytest.approx(50 / 2**0.5)


def test_without_a_table_there_are_only_our_figures():
  rows = compare(results_of('folder', ['nut', 'bolt'], 0.5), None, 'resnet18')
  assert [row.label for row in rows] == ['nut', 'bolt', 'mean']
  assert all(row.paper == {} for row in rows)
  alone = compare(results_of('folder', ['nut'], 0.5), None, 'resnet18')
  assert [row.label for row in alone] == ['nut']


def test_differences_are_those_of_the_printed_figures():
  ours, paper = {'I-AUC': 98.76, 'I-AP': 98.74, 'P-AUC': 98.0}, {'I-AUC': 98.6, 'I-AP': 98.7}
  row = Row('bolt', ours, {}, paper | {'P-AUC': 98.6, 'P-PRO': 94.0})
  assert [row.difference(metric) for metric in ours] == [0.2, 0.0, -0.6]
  assert row.difference('P-PRO') is None
