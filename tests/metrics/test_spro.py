"""The saturated per-region overlap against its definition, threshold by threshold."""

import itertools

import numpy as np
import pytest

from memkd_jax.metrics import SaturatedOverlaps, aupro


def slow_curve(images):
  """(fpr, spro) at every distinct score, as the publication defines them."""
  scores = np.unique(np.concatenate([map_.ravel() for map_, _, _ in images]))[::-1]
  points = [(0.0, 0.0)]
  for threshold in scores:
    overlaps, false, normal = [], 0, 0
    for map_, regions, saturations in images:
      flagged = map_ >= threshold
      anywhere = np.zeros(map_.shape, bool)
      for region, saturation in zip(regions, saturations, strict=True):
        overlaps.append(min((flagged & region).sum() / saturation, 1.0))
        anywhere |= region
      false += (flagged & ~anywhere).sum()
      normal += (~anywhere).sum()
    points.append((false / normal, float(np.mean(overlaps))))
  return np.array(points).T


def slow_area(images, limit):
  fpr, spro = slow_curve(images)
  grid = np.union1d(fpr[fpr <= limit], [limit])
  # Where several thresholds share a rate the curve rises at once.
  area = 0.0
  for left, right in itertools.pairwise(grid):
    high = np.interp(right, fpr, spro) if right not in fpr else spro[fpr == right].min()
    area += (right - left) * (spro[fpr == left].max() + high) / 2
  return area / limit


def make_images(seed, levels=None, kinds=3):
  rng = np.random.default_rng(seed)
  images = []
  for number in range(kinds):
    map_ = rng.random((12, 15))
    if levels:
      map_ = np.floor(map_ * levels) / levels
    regions, saturations = [], []
    for _ in range(number):
      region = np.zeros(map_.shape, bool)
      row, column = rng.integers(0, 8, 2)
      region[row : row + 4, column : column + 5] = rng.random((4, 5)) < 0.8
      map_ = np.where(region, np.minimum(map_ + 0.25, 1.0), map_)
      regions.append(region)
      saturations.append(int(rng.integers(1, region.sum() + 1)))
    images.append((map_, regions, saturations))
  return images


def collect(images, kind='x'):
  overlaps = SaturatedOverlaps()
  for map_, regions, saturations in images:
    overlaps.add(map_, regions, saturations, kind if regions else '')
  return overlaps


@pytest.mark.parametrize('levels', [None, 6], ids=['distinct', 'tied'])
@pytest.mark.parametrize('seed', range(5))
def test_areas_are_those_of_the_definition(seed, levels):
  images = make_images(seed, levels)
  found = collect(images).area([0.05, 0.3, 1.0])
  for limit, area in found.items():
    assert area == pytest.approx(slow_area(images, limit), abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_saturated_by_the_whole_region_it_is_pro(seed):
  rng = np.random.default_rng(seed)
  maps = rng.random((3, 16, 16))
  masks = np.zeros(maps.shape, bool)
  masks[0, 2:5, 3:9] = masks[0, 9:12, 1:4] = masks[1, 4:6, 4:6] = True
  overlaps = SaturatedOverlaps()
  first, second = masks[0].copy(), masks[0].copy()
  first[7:] = second[:7] = False
  overlaps.add(maps[0], [first, second], [first.sum(), second.sum()])
  overlaps.add(maps[1], [masks[1]], [4])
  overlaps.add(maps[2])
  for limit in (0.05, 0.3):
    assert overlaps.area([limit])[limit] == pytest.approx(aupro(masks, maps, limit), abs=1e-12)


def test_of_a_kind_count_its_images_and_the_normal_ones():
  logical, structural, normal = (make_images(seed)[1:] for seed in (1, 2, 3))
  normal = [(map_, [], []) for map_, _, _ in normal]
  overlaps = SaturatedOverlaps()
  for kind, images in (('logical', logical), ('structural', structural), ('', normal)):
    for image in images:
      overlaps.add(*image, kind)
  assert overlaps.kinds == ['logical', 'structural']
  assert overlaps.area([0.3], 'logical') == collect([*logical, *normal]).area([0.3])
  everything = collect([*logical, *structural, *normal])
  assert overlaps.area([0.3])[0.3] == pytest.approx(everything.area([0.3])[0.3], abs=1e-12)


@pytest.mark.parametrize('saturation', [0, 5])
def test_a_saturation_beyond_the_region_is_refused(saturation):
  with pytest.raises(ValueError, match='cannot be saturated by'):
    SaturatedOverlaps().add(np.zeros((2, 2)), [np.ones((2, 2))], [saturation])


def test_without_regions_there_is_no_curve():
  overlaps = SaturatedOverlaps()
  overlaps.add(np.zeros((2, 2)))
  with pytest.raises(ValueError, match='nothing is anomalous'):
    overlaps.curve()
  with pytest.raises(ValueError, match='a region is'):
    overlaps.add(np.zeros((2, 2)), [np.ones((2, 3))], [1])
