"""PRO against a brute-force loop over every threshold and region."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memkd_jax.metrics import aupro, pro_curve


def flood_regions(mask):
  """8-connected components, by flooding."""
  left = {tuple(p) for p in np.argwhere(mask)}
  regions = []
  while left:
    region, edge = set(), [left.pop()]
    while edge:
      i, j = edge.pop()
      region.add((i, j))
      for p in ((i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
        if p in left:
          left.remove(p)
          edge.append(p)
    regions.append(region)
  return regions


def slow_curve(masks, maps):
  regions = [(n, r) for n, mask in enumerate(masks) for r in flood_regions(mask)]
  normal = [m for mask, map_ in zip(masks, maps, strict=True) for m in map_[mask == 0]]
  points = [(0.0, 0.0)]
  for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
    fpr = sum(v >= threshold for v in normal) / len(normal)
    overlaps = [sum(maps[n][p] >= threshold for p in r) / len(r) for n, r in regions]
    points.append((fpr, sum(overlaps) / len(overlaps)))
  return points


def off_line(point, a, b):
  """Distance of a point to the line from a to b."""
  along = b - a
  t = np.clip((point - a) @ along / max(along @ along, 1e-300), 0, 1)
  return np.linalg.norm(a + t * along - point)


def slow_aupro(masks, maps, limit):
  area, points = 0.0, slow_curve(masks, maps)
  for (x0, y0), (x1, y1) in itertools.pairwise(points):
    if x0 >= limit:
      break
    if x1 > limit:
      x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
    area += (x1 - x0) * (y0 + y1) / 2
  return area / limit


@settings(max_examples=100, deadline=None)
@given(
  masks=hnp.arrays(np.uint8, (2, 5, 6), elements=st.integers(0, 1)),
  maps=hnp.arrays(np.float32, (2, 5, 6), elements=st.integers(0, 9)),
  limit=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_agrees_with_brute_force(masks, maps, limit):
  if not masks.any() or masks.all():
    return
  corners, points = np.stack(pro_curve(masks, maps), 1), np.array(slow_curve(masks, maps))
  assert (np.diff(corners, axis=0) >= -1e-12).all()
  # The corners are points of the curve, and every point lies on a line of corners.
  for corner in corners:
    assert np.abs(points - corner).max(1).min() < 1e-12
  for point in points:
    assert min(off_line(point, a, b) for a, b in itertools.pairwise(corners)) < 1e-9
  assert abs(aupro(masks, maps, limit) - slow_aupro(masks, maps, limit)) < 1e-12
  assert 0 <= aupro(masks, maps, limit) <= 1 + 1e-12


def test_images_of_different_sizes_are_one_test_set(rng):
  masks = [rng.integers(0, 2, s) for s in ((4, 5), (7, 3))]
  maps = [rng.normal(size=m.shape) for m in masks]
  assert abs(aupro(masks, maps) - slow_aupro(masks, maps, 0.3)) < 1e-12


def height_at_zero(masks, maps):
  """PRO before the first false positive."""
  fpr, pro = pro_curve(masks, maps)
  return pro[fpr == 0].max()


def test_diagonal_neighbours_are_one_region():
  mask = np.zeros((4, 4), int)
  mask[0, 0] = mask[1, 1] = 1
  map_ = np.zeros((4, 4))
  map_[0, 0] = 1  # half of one region, not all of one of two
  assert height_at_zero([mask], [map_]) == 0.5
  # Two regions of 1 and 2 pixels would give 1/2 as well; three pixels tell apart.
  mask[2, 2] = 1
  assert height_at_zero([mask], [map_]) == pytest.approx(1 / 3)


def test_a_region_counts_alike_whatever_its_size():
  mask = np.zeros((6, 6), int)
  mask[0, 0] = 1
  mask[3:, 3:] = 1
  map_ = np.zeros((6, 6))
  map_[0, 0] = 1
  assert height_at_zero([mask], [map_]) == pytest.approx(0.5)


def test_a_perfect_and_a_constant_detector():
  mask = np.zeros((10, 10), int)
  mask[2:4, 2:4] = 1
  assert aupro([mask], [mask.astype(float)]) == 1
  # One step from (0, 0) to (1, 1): a straight line, 0.15 up to 0.3 on average.
  assert aupro([mask], [np.ones((10, 10))]) == pytest.approx(0.15)


def test_few_dominant_scores_do_not_hide_the_rest(rng):
  """200 linear thresholds would put nearly all pixels into one step (trap 3)."""
  mask = np.zeros((40, 40), int)
  mask[5:15, 5:15] = 1
  map_ = rng.normal(size=(40, 40)) + 2 * mask
  skewed = np.exp(3 * map_)  # same order of the pixels, other spacing
  assert aupro([mask], [skewed]) == pytest.approx(aupro([mask], [map_]), abs=1e-12)
  thresholds = np.linspace(skewed.min(), skewed.max(), 200)
  coarse = [
    ((skewed >= t)[mask == 0].mean(), (skewed >= t)[mask == 1].mean()) for t in thresholds[::-1]
  ]
  fpr, pro = np.array([(0, 0), *coarse]).T
  inside = fpr <= 0.3
  rough = np.trapezoid(pro[inside], fpr[inside]) / 0.3
  assert abs(rough - aupro([mask], [skewed])) > 0.05


@pytest.mark.parametrize(
  ('masks', 'maps', 'limit', 'message'),
  [
    ([np.zeros((2, 2))], [np.ones((2, 2))], 0.3, 'nothing is anomalous'),
    ([np.ones((2, 2))], [np.ones((2, 2))], 0.3, 'nothing is normal'),
    ([np.ones((2, 2))], [np.ones((2, 3))], 0.3, r'masks\[0\] is \(2, 2\)'),
    ([np.ones((2, 2))], [], 0.3, 'different numbers of images'),
    ([], [], 0.3, 'maps is empty'),
    ([np.eye(2)], [np.full((2, 2), np.nan)], 0.3, r'maps\[0\] holds NaN'),
    ([np.full((2, 2), np.nan)], [np.eye(2)], 0.3, r'masks\[0\] holds NaN'),
    ([np.array([['a']])], [np.ones((1, 1))], 0.3, r'masks\[0\] must be real'),
    ([np.eye(2)], [np.ones((2, 2))], 0.0, 'fpr_limit'),
    ([np.eye(2)], [np.ones((2, 2))], 1.1, 'fpr_limit'),
  ],
)
def test_bad_input_is_named(masks, maps, limit, message):
  with pytest.raises(ValueError, match=message):
    aupro(masks, maps, limit)
