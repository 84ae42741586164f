import numpy as np

from memkd_jax.report.overlay import color_range, heat_map
from memkd_jax.scoring.calibration import Calibration, Threshold


def test_cold_pixels_stay_as_they_are(rng):
  image = rng.integers(0, 256, (4, 4, 3), np.uint8)
  map_ = np.zeros((4, 4))
  map_[0, 0] = 2
  found = heat_map(image, map_, 0, 1)
  np.testing.assert_array_equal(found[1:], image[1:])
  # inferno's last colour, (252, 255, 164), at an opacity of 0.75
  np.testing.assert_allclose(
    found[0, 0], 0.25 * image[0, 0] + 0.75 * np.array([252, 255, 164]), atol=1
  )


def test_threshold_lies_at_two_thirds(rng):
  maps = rng.normal(size=(40, 8, 8))
  calibration = Calibration.from_maps(maps, maps.max(axis=(1, 2)))
  threshold = calibration.threshold(0.05)
  low, high = color_range(calibration, threshold, maps[0])
  np.testing.assert_allclose(low, np.median(maps), atol=0.01)
  np.testing.assert_allclose((threshold.value - low) / (high - low), 2 / 3)
  assert color_range(None, None, maps[0]) == (maps[0].min(), maps[0].max())
  # Without decisions colours are compared by the highest held-out score.
  found = color_range(calibration, None, maps[0])
  assert found == color_range(calibration, Threshold.by_hand(maps.max(), None), maps[0])


def test_threshold_by_hand(rng):
  map_ = rng.uniform(1, 2, size=(8, 8))
  assert color_range(None, Threshold.by_hand(2.0, None), map_) == (0, 3)
  for useless in (0.0, -1.0):
    found = color_range(None, Threshold.by_hand(useless, None), map_)
    assert found == (map_.min(), map_.max())


def test_flat_map(rng):
  image = rng.integers(0, 256, (4, 4, 3), np.uint8)
  np.testing.assert_array_equal(heat_map(image, np.ones((4, 4)), 1, 1), image)
