"""What is timed gives the same results on all sides, and says so."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def neighbours(monkeypatch):
  monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools'))
  import benchmark_neighbours

  for name, value in (('PATCHES', 500), ('PICKS', 20), ('QUERIES', 60), ('MEMORY', 40)):
    monkeypatch.setattr(benchmark_neighbours, f'_{name}', value)
  return benchmark_neighbours


def once(candidates):
  return {candidate.name: [1 / sum(candidate.times(1))] for candidate in candidates}


def test_scikit_learn_finds_the_same_distances(neighbours, capsys):
  figures = neighbours.compare(['scikit-learn'], once)
  ratios = {line['name']: line.get('ratio') for line in figures['candidates']}
  assert [name for name, ratio in ratios.items() if ratio] == ['nearest, scikit-learn']
  (difference,) = figures['agreement'].values()
  assert difference < 1e-3
  assert '| nearest, scikit-learn ' in capsys.readouterr().out


def test_torch_picks_the_same_patches(neighbours):
  pytest.importorskip('torch')
  patches, queries, memory = (neighbours.make_patches(n, n) for n in (500, 60, 40))
  matrix = np.random.default_rng(0).normal(size=(384, 128)).astype(np.float32)
  ours = neighbours._our_works(patches, matrix, queries, memory)
  theirs = neighbours._torch_works(patches, matrix, queries, memory)
  assert ours['coreset']().tolist() == theirs['coreset']().tolist()
  np.testing.assert_allclose(ours['nearest'](), theirs['nearest'](), atol=1e-3)
  assert len(set(theirs['coreset, 10 starting points']())) == 20
