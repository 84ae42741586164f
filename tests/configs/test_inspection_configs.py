"""The configs of further benchmarks, from the command line to results, on miniature data."""

import json

import pytest
from inspection_layouts import LAYOUTS

from memkd_jax import main

pytestmark = pytest.mark.newest

CATEGORIES = {
  'btad': '01',
  'ksdd': 'fold_2',
  'ksdd2': 'ksdd2',
  'vad': 'vad',
  'real_iad': 'zipper',
  'dagm': 'Class7',
}
# How many sentences are told of the reading, and whether the numbers of images are published.
TOLD = {'btad': 0, 'ksdd': 2, 'ksdd2': 1, 'vad': 1, 'real_iad': 1, 'dagm': 1}
WITHOUT_COUNTS = ('ksdd', 'real_iad')
# Those without masks, with label images and with JSON; each takes three seconds.
QUICK = ('vad', 'ksdd', 'real_iad')


@pytest.mark.parametrize(
  'name', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS]
)
def test_a_benchmark_from_end_to_end(tmp_path, share_compilations, name):
  LAYOUTS[name](tmp_path / 'data')
  category = CATEGORIES[name]
  code = main.main(
    [
      f'--config={name}:knn',
      f'--workdir={tmp_path / "run"}',
      f'--config.data.dir={tmp_path / "data"}',
      f'--config.data.categories={category}',
      '--config.model.backbone=tiny_basic',
      '--config.model.teacher_weights=random',
      '--config.data.image_size=32',
      '--config.method.share=1.0',
      '--dump-maps',
    ]
  )
  assert code == 0
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['dataset'] == name
  assert list(results['categories']) == [category]
  measured = {m for m, v in results['categories'][category].items() if v is not None}
  assert 'I-AUC' in measured
  assert ('P-AUC' in measured) == (name != 'vad')  # which has no masks
  assert ('S-AUC' in measured) == (name == 'real_iad')  # whose parts have five views each
  notes = results['notes']
  incomplete = [note for note in notes if note.startswith(f'{category} has ')]
  assert bool(incomplete) == (name not in WITHOUT_COUNTS)
  assert sum(note.startswith(f'{category}: ') for note in notes) == TOLD[name]
  maps = list((tmp_path / 'run' / 'anomaly_maps' / 'seed_0').rglob('*.tiff'))
  numbers = results['counts'][category]
  assert len(maps) == numbers['test_normal'] + numbers['test_anomalous']
