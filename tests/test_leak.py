"""Memory over many evaluations in one process. It prints what it measured: run with -s."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from memkd_jax.data.folder import list_samples
from memkd_jax.data.splits import load_split
from memkd_jax.data.tiling import Tiling
from memkd_jax.evaluate import Scorer, evaluate
from memkd_jax.methods.base import Task
from memkd_jax.scoring.pipeline import Pipeline

pytestmark = pytest.mark.newest

EVALUATIONS = 200
SETTLED = 40  # after which allocators and caches have what they keep


def resident() -> float:
  """MB of this process that are in memory."""
  gc.collect()
  pages = int(Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs /proc')
def test_memory_stays_flat(tiny_config, make_category, make_method, one_device, tmp_path):
  make_category(tmp_path / 'data')
  method = make_method(tiny_config, one_device)
  train, test = (
    load_split(list_samples(tmp_path / 'data', 'bolt', split), (32, 32), 2)
    for split in ('train', 'test')
  )
  fitted = method.fit(Task.of_category('bolt', 0), train.images, tmp_path)
  pipeline = Pipeline(method.extractor, method)
  scorer = Scorer(pipeline, Tiling((32, 32)), method.extractor.params, one_device, batch_size=4)
  sizes, figures = [], []
  for _ in range(EVALUATIONS):
    figures.append(
      evaluate(
        scorer,
        fitted.params,
        'bolt',
        test,
        tmp_path,
        resolution='model',
        fitted_diagnosis=fitted.diagnosis,
        maps_folder=tmp_path / 'maps',
      )
    )
    sizes.append(resident())
  shown = ', '.join(f'{i}: {sizes[i - 1]:.0f}' for i in (1, 10, SETTLED, 100, 150, EVALUATIONS))
  print(f'\nMB after so many evaluations: {shown}')
  assert all(f == figures[0] for f in figures)
  # A leaked map, image or program would be kept 160 times.
  slope = np.polyfit(np.arange(SETTLED, EVALUATIONS), sizes[SETTLED:], 1)[0]
  assert slope < 0.05  # MB per evaluation
  assert sizes[-1] - sizes[SETTLED - 1] < 20
