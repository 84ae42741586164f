from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memkd_jax.data.arrays import Split
from memkd_jax.data.sample import Sample
from memkd_jax.report.figure import worst_first, write_figure


def test_the_worst_mistakes_come_first():
  labels = np.array([0, 0, 0, 1, 1, 1])
  scores = np.array([0.1, 0.9, 0.2, 0.05, 0.95, 0.5])
  order = worst_first(labels, scores)
  # 3 is an anomaly below every normal image; 1 a normal image above two of the
  # three anomalies, 5 an anomaly behind one of three.
  assert order.tolist()[0] == 3
  assert order.tolist()[1] == 1
  assert set(order.tolist()) == set(range(6))


def test_without_mistakes_the_closest_calls_come_first():
  labels = np.array([0, 0, 1, 1])
  assert worst_first(labels, np.array([0.1, 0.4, 0.5, 0.9])).tolist()[:2] in ([1, 2], [2, 1])


@pytest.mark.parametrize('with_masks', [True, False])
@pytest.mark.parametrize('number', [2, 15])
def test_the_figure_has_its_rows(tmp_path, rng, with_masks, number):
  masks = np.zeros((number, 16, 16), bool)
  masks[1:, :4] = True
  kinds = ['good'] + ['hole'] * (number - 1)
  test = Split(
    samples=tuple(
      Sample(f'test/{kind}/p_$^$_{i}.png', Path(), None, kind) for i, kind in enumerate(kinds)
    ),
    images=rng.integers(0, 256, (number, 16, 16, 3), dtype=np.uint8),
    masks=masks if with_masks else None,
    sizes=np.full((number, 2), 16),
  )
  write_figure(tmp_path / 'figure.png', test, rng.random((number, 16, 16)), rng.random(number))
  assert [p.name for p in tmp_path.iterdir()] == ['figure.png']
  with Image.open(tmp_path / 'figure.png') as figure:
    width, height = figure.size
  assert height == (510 if with_masks else 360)
  assert width == 150 * min(number, 12) + 50
