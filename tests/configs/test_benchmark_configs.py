"""Every benchmark's config, from the command line to its table, on miniature data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_layouts import LAYOUTS
from PIL import Image

from memkd_jax.scoring import external_maps

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]
TINY = [
  '--config.data.image_size=32',
  '--config.model.backbone=tiny_basic',
  '--config.model.teacher_weights=random',
  '--config.model.memory_items=5',
  '--config.train.epochs=2',
  '--config.train.batch_size=8',
  '--config.train.exemplars=4',
  '--config.train.log_steps=1',
]


def run(name, root, *arguments):
  return subprocess.run(
    [
      sys.executable,
      '-m',
      'memkd_jax.main',
      f'--config={ROOT}/configs/{name.removesuffix("_ad")}.py',
      f'--workdir={root}/run',
      f'--config.data.dir={root}/data',
      *TINY,
      *arguments,
    ],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
    capture_output=True,
    text=True,
  )


# MVTec's and VisA's layouts differ most; each of the others takes half a minute.
COMMON = ('mvtec_ad', 'visa')


@pytest.mark.parametrize(
  'name',
  [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS],
)
def test_a_benchmark_from_end_to_end(tmp_path, name):
  LAYOUTS[name](tmp_path / 'data')
  categories = sorted(p.name for p in (tmp_path / 'data').iterdir() if p.is_dir())
  categories = [c for c in categories if c != 'split_csv']
  missing = {'mvtec_ad': 'wood', 'visa': 'fryum', 'mpdd': 'connector'}.get(name)
  seeds = [0, 5] if name == 'mvtec_ad' else [5]
  chosen = [*categories, *([missing] if missing else [])]
  result = run(
    name,
    tmp_path,
    f'--config.data.categories={",".join(chosen)}',
    '--config.eval.resolution=original',
    '--config.train.trackers=tensorboard',
    f'--config.seeds={",".join(map(str, seeds))}',
    '--dump-maps',
    *(['--config.model.paradigm=forward'] if name == 'mpdd' else []),
  )
  # A category that fails is in the table, the others run, and the exit code says so.
  assert result.returncode == (1 if missing else 0), result.stderr
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert list(results['failed']) == ([missing] if missing else [])
  assert results['dataset'] == name
  assert list(results['categories']) == categories
  assert list(results['per_seed']) == [str(seed) for seed in seeds]
  for category in categories:
    further = {'mvtec_loco': 3, 'mvtec_ad_2': 1}.get(name, 0)
    assert len(results['categories'][category]) == 8 + further
    assert results['counts'][category]['train'] == 9
    known = name != 'mvtec_ad_2'  # whose numbers by category were not found
    assert known == any(
      n.startswith(f'{category} has 9 train images') for n in results['notes']
    )
  assert (results['mean'] is None) == (missing is not None)
  assert ('±' in result.stdout) == (len(seeds) > 1)
  folder = tmp_path / 'run' / categories[0] / 'seed_5'
  for file in (
    'figure.png',
    'curves.png',
    'memory.png',
    'memory.json',
    'metrics.jsonl',
    'result.json',
  ):
    assert (folder / file).stat().st_size > 0
  assert list((folder / 'tensorboard').iterdir())
  maps = list((tmp_path / 'run' / 'anomaly_maps' / 'seed_5').rglob('*.tiff'))
  assert len(maps) == sum(
    results['counts'][c][kind] for c in categories for kind in ('test_normal', 'test_anomalous')
  )
  if name == 'mvtec_ad':  # the layout that tools/score_maps.py reads
    scored = external_maps.score_category(
      tmp_path / 'run' / 'anomaly_maps' / 'seed_5', tmp_path / 'data', categories[0]
    )
    ours = results['per_seed']['5'][categories[0]]
    for metric in ('P-AUC', 'P-AP', 'P-PRO', 'P-PRO5', 'P-F1max'):
      assert scored['metrics'][metric] == ours[metric]
  with Image.open(maps[0]) as map_:
    assert np.asarray(map_).dtype == np.float32
    assert map_.size == ((41, 41) if name == 'visa' else (32, 32))
