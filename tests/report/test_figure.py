import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from memkd_jax.data.framing import Framing
from memkd_jax.data.sample import Sample
from memkd_jax.data.splits import Split
from memkd_jax.report.figure import (
  choose_cases,
  choose_highest,
  worst_first,
  write_figure,
)


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


@pytest.mark.parametrize('classes', [1, 2])
@pytest.mark.parametrize('number', range(2, 30))
def test_no_case_is_chosen_twice(number, classes, rng):
  labels = np.arange(number) % classes
  scores = rng.random(number)
  order = worst_first(labels, scores) if classes == 2 else np.argsort(-scores)
  groups = choose_cases(labels, scores)
  chosen = np.concatenate(list(groups.values()))
  places = [order.tolist().index(i) for i in chosen]
  assert len(set(chosen)) == len(chosen) >= min(number - 1, 12)
  assert places == sorted(places)
  assert places[0] == 0
  assert places[-1] == number - 1
  assert max(len(group) for group in groups.values()) <= 4
  if number > 12:
    middle = len(groups['median'])
    assert np.mean(places[4 : 4 + middle]) == pytest.approx((number - 1) / 2, abs=0.5)


def test_two_images_have_no_median():
  assert list(choose_cases(np.array([1, 0]), np.array([0.5, 0.7]))) == ['worst', 'best']
  assert list(choose_cases(np.array([1, 1]), np.array([0.5, 0.7]))) == ['highest', 'lowest']


@pytest.mark.parametrize('number', [1, 4, 5, 20])
def test_the_highest_come_in_order(number, rng):
  scores = rng.random(number)
  groups = choose_highest(scores)
  assert np.concatenate(list(groups.values())).tolist() == np.argsort(-scores)[:8].tolist()
  assert len(groups) == (2 if number > 4 else 1)


@pytest.mark.parametrize('with_masks', [True, False])
@pytest.mark.parametrize(('number', 'groups'), [(2, 2), (15, 3)])
def test_the_figure_has_its_rows(tmp_path, rng, with_masks, number, groups):
  masks = np.zeros((number, 16, 16), bool)
  masks[1:, :4] = True
  kinds = ['good'] + ['hole'] * (number - 1)
  test = Split(
    samples=tuple(
      Sample(f'test/{kind}/p_$^$_{i}.png', {}, None, kind) for i, kind in enumerate(kinds)
    ),
    images=rng.integers(0, 256, (number, 16, 16, 3), dtype=np.uint8),
    masks=masks if with_masks else None,
    sizes=np.full((number, 2), 16),
    framing=Framing((16, 16)),
  )
  maps, scores = rng.random((number, 16, 16)), rng.random(number)
  cases = choose_cases(test.labels, scores)
  write_figure(tmp_path / 'figure.png', test, maps, scores, cases)
  assert [p.name for p in tmp_path.iterdir()] == ['figure.png']
  with Image.open(tmp_path / 'figure.png') as figure:
    width, height = figure.size
  assert width == 836
  assert height == groups * (112 + 200 * (3 if with_masks else 2))


def test_several_pictures_have_a_row_and_a_map_each(tmp_path, rng, monkeypatch):
  shown = []
  show = Axes.imshow
  monkeypatch.setattr(Axes, 'imshow', lambda *a, **k: shown.append((a[1], k)) or show(*a, **k))
  samples = tuple(Sample(f'{i}.png', {}, None, 'good' if i < 3 else 'hole') for i in range(6))
  images = rng.integers(0, 256, (6, 8, 8, 8), np.uint8)
  framing = Framing((8, 8), inputs=('rgb', 'depth'))
  test = Split(samples, images, None, np.full((6, 2), 8), framing)
  maps, parts = (
    rng.random((6, 8, 8)),
    {'rgb': rng.random((6, 2, 2)), 'depth': rng.random((6, 2, 2))},
  )
  write_figure(
    tmp_path / 'figure.png', test, maps, rng.random(6), {'best': np.array([4])}, parts
  )
  pictures, drawn = shown[:2], shown[2:]
  np.testing.assert_array_equal(pictures[0][0], images[4, ..., :3])
  np.testing.assert_array_equal(pictures[1][0], images[4, ..., 4:7])
  for (picture, _), expected in zip(drawn, (parts['rgb'], parts['depth'], maps), strict=True):
    np.testing.assert_array_equal(picture, expected[4])
  assert len({k['vmax'] for _, k in drawn}) == 3


def test_all_maps_have_one_colour_scale(tmp_path, rng, monkeypatch):
  shown = []
  show = Axes.imshow
  monkeypatch.setattr(Axes, 'imshow', lambda *a, **k: shown.append(k) or show(*a, **k))
  samples = tuple(Sample(f'{i}.png', {}, None, 'good' if i < 3 else 'hole') for i in range(6))
  images = np.zeros((6, 8, 8, 3), np.uint8)
  maps = rng.random((6, 8, 8))
  test = Split(samples, images, None, np.full((6, 2), 8), Framing((8, 8)))
  scores = rng.random(6)
  write_figure(tmp_path / 'figure.png', test, maps, scores, choose_cases(test.labels, scores))
  scales = {(k['vmin'], k['vmax']) for k in shown if 'vmin' in k}
  assert scales == {(maps.min(), np.quantile(maps, 0.999))}
  assert len(shown) == 12
