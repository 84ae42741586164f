"""Regions of a map against a flood fill by hand."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from memkd_jax.scoring.regions import Region, find_regions, outline, run_lengths


def flood(map_, threshold):
  """The parts above a threshold as lists of pixels."""
  left = {tuple(place) for place in np.argwhere(map_ > threshold).tolist()}
  parts = []
  while left:
    waiting, part = [left.pop()], []
    while waiting:
      row, column = waiting.pop()
      part.append((row, column))
      around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
      left -= around
      waiting += around
    parts.append(part)
  return parts


@pytest.mark.parametrize('threshold', [0.5, 0.7, 0.9])
@pytest.mark.parametrize('smallest', [1, 4])
def test_regions_are_those_of_a_flood_fill(rng, threshold, smallest):
  map_ = rng.random((23, 31)).astype(np.float32)
  found = find_regions(map_, threshold, smallest)
  parts = [part for part in flood(map_, threshold) if len(part) >= smallest]
  assert len(found) == len(parts) > 0
  assert [region.score for region in found] == sorted((r.score for r in found), reverse=True)
  parts.sort(key=lambda part: -max(map_[place] for place in part))
  for region, part in zip(found, parts, strict=True):
    rows, columns = np.array(part).T
    peak = max(part, key=lambda place: map_[place])
    assert (region.top, region.left) == (rows.min(), columns.min())
    assert (region.height, region.width) == (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert region.area == len(part)
    assert (region.row, region.column) == pytest.approx((rows.mean(), columns.mean()))
    assert (region.peak_row, region.peak_column) == peak
    assert region.score == map_[peak]


def test_a_flat_map_has_none():
  assert find_regions(np.ones((4, 5)), 1.0) == []


def test_one_pixel():
  map_ = np.zeros((4, 5))
  map_[2, 3] = 7
  expected = Region(3, 2, 1, 1, 1, 2.0, 3.0, 2, 3, 7.0, np.ones((1, 1), bool))
  assert find_regions(map_, 1.0) == [expected]
  assert 'inside' not in expected.facts()


@pytest.mark.parametrize('share', [0.05, 0.4, 0.9, 1.0])
def test_run_lengths_are_those_of_coco(rng, share):
  """The parts of a mask, each in its image, give the mask again."""
  mask = rng.random((9, 7)) < share
  mask[0, 0] = mask[-1, -1] = True
  together = np.zeros(mask.shape, int)
  for region in find_regions(mask.astype(float), 0.5):
    lengths = run_lengths(region, mask.shape[::-1])
    assert sum(lengths) == mask.size and min(lengths[1:-1], default=1) > 0
    values = np.arange(len(lengths)) % 2
    together += np.repeat(values, lengths).reshape(mask.shape, order='F')
  np.testing.assert_array_equal(together, mask)


@pytest.mark.parametrize('share', [0.2, 0.4, 0.6, 1.0])
def test_an_outline_holds_its_region_and_nothing_else(rng, share):
  """The centres of pixels lie inside where they are of the region or of a hole of it."""
  mask = rng.random((23, 31)) < share
  centres = np.argwhere(np.ones(mask.shape, bool))[:, ::-1] + 0.5
  for region in find_regions(mask.astype(float), 0.5):
    line = outline(region)
    # The line touches itself where pixels touch at a corner.
    inside = Polygon([*line, line[0]], closed=True).contains_points(centres)
    whole = np.zeros(mask.shape, bool)
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)
    whole[rows, columns] = ndimage.binary_fill_holes(region.inside)
    np.testing.assert_array_equal(inside.reshape(mask.shape), whole)
    assert np.min(line) >= 0 and np.all(np.max(line, axis=0) <= mask.shape[::-1])


def test_an_outline_of_a_large_region_has_few_corners():
  rows, columns = np.mgrid[:3000, :2000]
  disc = np.hypot(rows - 1500, columns - 1000) < 900
  (region,) = find_regions(disc.astype(np.float32), 0.5)
  line = np.array(outline(region))
  assert len(line) < 1000
  radii = np.hypot(line[:, 0] - 1000, line[:, 1] - 1500)
  assert np.abs(radii - 900).max() < 1800 / 512 * 2


def test_an_outline_of_one_pixel():
  map_ = np.zeros((4, 5))
  map_[2, 3] = 7
  (region,) = find_regions(map_, 1.0)
  assert sorted(outline(region)) == [(3.0, 2.5), (3.5, 2.0), (3.5, 3.0), (4.0, 2.5)]
