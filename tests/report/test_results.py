import json

import pytest

from memkd_jax import methods
from memkd_jax.report.results import collect, results_table, write_results
from memkd_jax.workdir import Workdir

CONFIG = methods.resolve(methods.get_config())
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
  results = collect(workdir, CONFIG, 'MemKD', ['tile'], {}, ['a note'])
  assert list(results['categories']) == ['tile', 'bottle']
  assert results['dataset'] == 'mvtec_ad'
  assert results['method'] == 'MemKD'
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
  results = collect(workdir, CONFIG, 'MemKD', ['tile', 'wood'], {'wood': 'no images'})
  assert results['mean'] is None
  table = results_table(results)
  assert '| wood         | failed |' in table
  assert 'wood failed: no images' in table
  assert '| mean' not in table


def test_all_failed(tmp_path):
  results = collect(Workdir(tmp_path), CONFIG, 'MemKD', ['wood'], {'wood': 'no images'})
  assert results['categories'] == {}
  assert results['mean'] is None
  assert 'failed' in results_table(results)


def test_several_seeds_are_averaged(workdir):
  config = methods.get_config()
  config.seeds = (0, 3)
  workdir.write_result('tile', 3, {'metrics': {'I-AUC': 0.5}, 'counts': COUNTS})
  workdir.write_result('wood', 0, {'metrics': {'I-AUC': 0.75}, 'counts': COUNTS})
  workdir.write_result('wood', 3, {'metrics': {'I-AUC': 0.25}, 'counts': COUNTS})
  for seed in (0, 3):
    metrics = {'I-AUC': 0.75 + seed / 12, 'I-AP': 1.0}
    workdir.write_result('tile', seed, {'metrics': metrics, 'counts': COUNTS, 'notes': ['n']})
  results = collect(workdir, methods.resolve(config), 'MemKD', ['tile'], {})
  # Bottle lacks seed 3.
  assert results['categories'] == {
    'tile': {'I-AUC': 0.875, 'I-AP': 1.0},
    'wood': {'I-AUC': 0.5},
  }
  assert results['mean'] == {'I-AUC': (0.875 + 0.5) / 2}
  # Sample standard deviations of (0.75, 1), (0.75, 0.25) and the means (0.75, 0.625).
  assert results['deviations'] == {
    'tile': {'I-AUC': pytest.approx(0.25 / 2**0.5), 'I-AP': 0.0},
    'wood': {'I-AUC': pytest.approx(0.5 / 2**0.5)},
    'mean': {'I-AUC': pytest.approx(0.125 / 2**0.5)},
  }
  assert results['per_seed']['3']['wood'] == {'I-AUC': 0.25}
  assert results['notes'].count('n') == 1
  table = results_table(results)
  assert '| tile         | 87.5 ± 17.7 | 100.0 ± 0.0 |' in table
  assert 'Seeds 0, 3: mean ± standard deviation.' in table
