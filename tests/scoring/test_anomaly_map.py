"""Maps against torch and scipy (method, section 7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from memkd_jax import config as base
from memkd_jax.ops.resampling import upsampling_matrix
from memkd_jax.scoring import anomaly_map
from memkd_jax.scoring.anomaly_map import (
  combine_maps,
  image_scores,
  seen_positions,
  top_scores,
)


@pytest.mark.parametrize('combine', ['sum', 'product'])
@pytest.mark.parametrize('align_corners', [True, False])
def test_maps_are_upsampled_combined_and_smoothed(rng, combine, align_corners):
  maps = {k: rng.random((2, side, side), np.float32) for k, side in ((3, 2), (1, 8))}
  expected = np.empty((2, 32, 32))
  for image in range(2):
    stages = []
    for x in maps.values():
      matrix = upsampling_matrix(x.shape[1], 32, align_corners)
      stages.append(matrix @ x[image] @ matrix.T)
    total = stages[0] + stages[1] if combine == 'sum' else stages[0] * stages[1]
    expected[image] = ndimage.gaussian_filter(total, 2.0)
  found = jax.jit(
    lambda maps: combine_maps(
      maps, (32, 32), combine=combine, align_corners=align_corners, sigma=2.0
    )
  )(maps)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(image_scores(found), expected.max((1, 2)), atol=1e-5)


def test_a_batch_gives_what_its_images_give_one_by_one(rng):
  maps = jnp.asarray(rng.random((3, 4, 4), np.float32))
  together = combine_maps({1: maps}, (16, 16))
  np.testing.assert_allclose(together[:1], combine_maps({1: maps[:1]}, (16, 16)), atol=1e-6)


def test_one_map_of_any_grid_is_enough(rng):
  maps = jnp.asarray(rng.random((1, 5, 5), np.float32))
  np.testing.assert_allclose(combine_maps({0: maps}, (5, 5), sigma=0), maps, atol=1e-6)


@pytest.mark.parametrize(('side', 'number'), [(4, 1), (32, 10), (64, 41)])
def test_the_mean_of_the_highest_hundredth(rng, side, number):
  maps = rng.random((3, side, side), np.float32)
  expected = [np.mean(sorted(map_.ravel())[-number:]) for map_ in maps]
  np.testing.assert_allclose(jax.jit(top_scores)(maps), expected, rtol=1e-6)


@pytest.mark.parametrize('share', [0.002, 0.005, 0.5, 1.0])
def test_the_mean_of_the_highest_hundredth_of_what_counts(rng, share):
  maps, seen = rng.normal(size=(3, 32, 32)).astype(np.float32), rng.random((3, 32, 32)) < share
  seen[:, 4, 7] = True
  expected = [
    np.mean(sorted(map_[s])[-max(1, (s.sum() + 50) // 100) :])
    for map_, s in zip(maps, seen, strict=True)
  ]
  found = jax.jit(top_scores)(np.where(seen, maps, -np.inf), seen)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_position_counts_where_any_of_its_pixels_does(rng):
  seen = rng.random((2, 12, 8)) < 0.05
  expected = [
    [[s[r : r + 3, c : c + 2].any() for c in range(0, 8, 2)] for r in range(0, 12, 3)]
    for s in seen
  ]
  np.testing.assert_array_equal(seen_positions(seen, (4, 4)), expected)


def test_choices_are_those_of_the_field():
  choices = {field.name: field.choices for field in base.FIELDS}
  assert choices['anomaly_map.image_score'] == anomaly_map.IMAGE_SCORES
