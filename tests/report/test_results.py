import json

import pytest

from memkd_jax import config as base
from memkd_jax.report.results import collect, results_table, write_results
from memkd_jax.workdir import Workdir

COUNTS = {'train': 10, 'test_normal': 3, 'test_anomalous': 4}


@pytest.fixture
def workdir(tmp_path):
  workdir = Workdir(tmp_path)
  full = {'I-AUC': 0.98765, 'I-AP': 0.5, 'I-F1max': 0.5, 'P-AUC': 0.25}
  workdir.write_result('tile', 0, {'metrics': full, 'counts': COUNTS})
  image_only = {'I-AUC': 0.5, 'I-AP': 0.25, 'I-F1max': 0.5}
  workdir.write_result('bottle', 0, {'metrics': image_only, 'counts': COUNTS})
  return workdir


def test_results_of_all_finished_categories(workdir):
  results = collect(workdir, base.get_config(), ['tile'], {}, ['a note'])
  assert list(results['categories']) == ['tile', 'bottle']
  assert results['dataset'] == 'mvtec_ad'
  assert results['seeds'] == [0]
  assert results['counts']['tile'] == COUNTS
  assert results['failed'] == {}
  # The mean is of the metrics that every category has, unweighted, unrounded.
  assert results['mean'] == {'I-AUC': (0.98765 + 0.5) / 2, 'I-AP': 0.375, 'I-F1max': 0.5}
  write_results(workdir.root, results)
  assert json.loads((workdir.root / 'results.json').read_text()) == results
  table = (workdir.root / 'results.md').read_text()
  assert table == results_table(results)
  assert '| tile         |  98.8 | 50.0 |    50.0 |  25.0 |' in table
  assert '| bottle       |  50.0 | 25.0 |    50.0 |     - |' in table
  assert '| mean         |  74.4 | 37.5 |    50.0 |     - |' in table
  assert 'no ground-truth masks for bottle: no pixel metrics' in table
  assert 'a note' in table


def test_a_failed_category_leaves_no_mean(workdir):
  results = collect(workdir, base.get_config(), ['tile', 'wood'], {'wood': 'no images'})
  assert results['mean'] is None
  table = results_table(results)
  assert '| wood         | failed |' in table
  assert 'wood failed: no images' in table
  assert '| mean' not in table


def test_all_failed(tmp_path):
  results = collect(Workdir(tmp_path), base.get_config(), ['wood'], {'wood': 'no images'})
  assert results['categories'] == {}
  assert results['mean'] is None
  assert 'failed' in results_table(results)
