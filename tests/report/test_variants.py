"""The table and the page of a sweep."""

import numpy as np
import pytest
from pages import Page
from PIL import Image

from memkd_jax.report import paper, variants
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.results import assemble
from memkd_jax.report.variants_page import write_page

HOSTILE = '<script>alert(1)</script>'
COUNTS = {'train': 1234, 'test_normal': 3, 'test_anomalous': 4}


def results_of(method, figures, *, seconds=(62.4,), dataset='mvtec_ad', seeds=(0,), notes=()):
  """Of categories {name: {seed: I-AUC}}."""
  runs = [
    {
      category: {
        'metrics': {'I-AUC': values[i]},
        'counts': COUNTS,
        'defects': {'hole': {'I-AUC': values[i], 'P-PRO': 0.25}},
        'costs': {'fit_seconds': seconds[0], 'model_bytes': 5e6, 'images_per_second': None},
      }
      for category, values in figures.items()
    }
    for i in range(len(seeds))
  ]
  found = assemble(dataset, method, seeds, runs, {}, notes)
  return found | {'environment': describe_environment(0.0)}


@pytest.fixture
def summary():
  return {
    'paper': '',
    'variants': {
      'patchcore': results_of('PatchCore', {'carpet': (0.9,), 'grid': (0.8,)}),
      'mine': results_of('Mine', {'carpet': (0.95,), 'grid': (0.7,)}, notes=('Mind.',)),
      'gone': None,
    },
    'failed': {'gone': 'no weights'},
  }


def cells(table, label):
  line = next(line for line in table.splitlines() if line.startswith(f'| {label} '))
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_a_comparison_has_costs_and_what_the_paper_prints_of_these_categories(summary):
  table = variants.sweep_table(summary)
  printed = paper.load_table('mvtec_ad', 'PatchCore').figures
  mean = np.mean([printed[c]['I-AUC'] for c in ('carpet', 'grid')])
  assert cells(table, 'variant')[:3] == ['variant (%)', 'I-AUC', 'paper']
  assert cells(table, 'patchcore') == ['patchcore', '85.0', f'{mean:.1f}', '0:01:02', '5.0']
  assert cells(table, 'mine')[1:3] == ['82.5', '-']
  assert cells(table, 'gone') == ['gone', '-', '-', '-', '-']
  assert 'images/s' not in table  # nobody measured it
  assert variants.COSTS_NOTE in table
  assert 'gone failed: no weights' in table
  assert table.count('Mind.') == 1
  assert 'wide_resnet50_2' in table


def test_a_category_that_the_paper_lacks_has_no_mean_of_the_paper():
  summary = {'paper': '', 'variants': {'rd': results_of('RD', {'mine': (1,)})}, 'failed': {}}
  assert variants.printed_figures(summary) == {}
  assert 'paper' not in variants.sweep_table(summary)


def test_a_variant_of_which_no_category_ended_has_no_mean_of_the_paper(summary):
  summary['variants']['none ended'] = results_of('PatchCore', {})
  assert variants.printed_figures(summary).keys() == {'patchcore'}
  assert cells(variants.sweep_table(summary), 'none ended')[1:3] == ['-', '-']


def test_costs_are_means_of_what_every_category_has():
  results = results_of('RD', {'a': (1,), 'b': (1,)})
  results['costs']['a'] = {'fit_seconds': 10.0, 'model_bytes': 1.0}
  results['costs']['b'] = {'model_bytes': 3.0}
  assert variants.mean_costs(results) == {'model_bytes': 2.0}
  assert variants.mean_costs(None) == {}


def test_the_page_shows_each_variant_and_the_best(tmp_path, summary):
  for name in ('patchcore', 'mine'):
    folder = tmp_path / name / 'carpet' / 'seed_0' / 'cases'
    folder.mkdir(parents=True)
    for file in ('image', 'truth', 'map'):
      Image.new('RGB', (40, 20)).save(folder / f'{file}.png')
  path = write_page(tmp_path, summary, {name: name for name in summary['variants']})
  source = path.read_text()
  page = Page(source)
  assert page.row('patchcore') == ['patchcore', '85.0', page.row('patchcore')[2]]
  assert '<strong>85.0</strong>' in source and '<strong>82.5</strong>' not in source
  assert page.row('carpet') == ['carpet', '90.0', '95.0']
  assert page.row('hole') == ['hole', '90.0', '95.0']
  assert 'gone failed: no weights' in page.text and variants.COSTS_NOTE in page.text
  assert {value for _, name, value in page.attributes if name == 'href'} == {
    'data:,',
    'patchcore/report.html',
    'mine/report.html',
  }
  # Whoever hears the page tells its parts apart, those of two categories too.
  parts = [value for _, name, value in page.attributes if name == 'aria-label']
  assert len(parts) == len(set(parts)) and any(part.startswith('carpet: ') for part in parts)
  pictures = [value for _, name, value in page.attributes if name == 'alt']
  assert pictures == [f'carpet: {label}' for label in ('image', 'truth', 'patchcore', 'mine')]


def test_names_cannot_inject(tmp_path):
  results = results_of(HOSTILE, {HOSTILE: (0.5, 0.6)}, dataset=HOSTILE, seeds=(0, 1))
  summary = {'paper': '', 'variants': {HOSTILE: results}, 'failed': {HOSTILE: HOSTILE}}
  page = Page(write_page(tmp_path, summary, {HOSTILE: 'h'}).read_text())
  assert 'script' not in page.tags
  assert page.row(HOSTILE)[1] == '55.0 ± 7.1'


def test_a_sweep_of_which_nothing_ended_has_a_page(tmp_path):
  summary = {'paper': '', 'variants': {'a': None}, 'failed': {'a': 'no weights'}}
  assert (
    'a failed: no weights' in Page(write_page(tmp_path, summary, {'a': 'a'}).read_text()).text
  )
