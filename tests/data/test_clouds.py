"""Planes, holes and normals of point clouds, against analytic surfaces and slow twins."""

import numpy as np
import pytest

from memkd_jax.data import clouds

TILT = np.array([0.2, -0.35, -1.0]) / np.linalg.norm([0.2, -0.35, -1.0])
DISTANCE = 0.6  # metres of the plane from the origin


def rays(size):
  """Directions in which a camera looks, [size, size, 3]."""
  y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
  return np.stack([0.15 * x, 0.15 * y, np.ones_like(x)], axis=-1)


def plane_points(size):
  directions = rays(size)
  return directions * (-DISTANCE / (directions @ TILT))[..., None]


def ball(size=65, radius=0.03, height=0.01):
  """A ball on the tilted plane: (points, whether of the ball, its centre)."""
  directions, points = rays(size), plane_points(size)
  centre = points[size // 2, size // 2] + height * TILT
  b = directions @ centre
  a = (directions**2).sum(-1)
  inside = b**2 - a * (centre @ centre - radius**2)
  on_ball = inside > 0
  nearest = (b - np.sqrt(np.where(on_ball, inside, 0))) / a
  hit = directions * nearest[..., None]
  on_ball &= hit @ TILT > points @ TILT
  return np.where(on_ball[..., None], hit, points), on_ball, centre


def angle(a, b):
  return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def test_where_nothing_was_read():
  points = np.ones((2, 3, 3), np.float32)
  points[0, 0] = 0
  points[0, 1] = (0, 0, 0.5)
  points[1, 2, 1] = np.nan
  np.testing.assert_array_equal(
    clouds.has_reading(points), [[False, True, True], [True, True, False]]
  )


def test_a_plane_of_least_squares(rng):
  points = plane_points(20).reshape(-1, 3) + rng.normal(0, 1e-3, (400, 3))
  normal, offset = clouds.fit_plane(points)
  # The smallest eigenvector of the scatter, another way to the same.
  centred = points - points.mean(0)
  slow = np.linalg.eigh(centred.T @ centred)[1][:, 0]
  assert abs(slow @ normal) == pytest.approx(1)
  assert normal @ points.mean(0) == pytest.approx(offset)
  assert offset < 0  # the normal looks at the origin
  assert angle(normal, TILT) < 1


def test_the_background_is_found_below_an_object(rng):
  points, on_ball, _ = ball()
  points = points + rng.normal(0, 1e-4, points.shape)
  valid = rng.random(on_ball.shape) > 0.3
  # A third of the border is something else, well above.
  points[:20, :] += 0.02 * TILT
  found = clouds.background_plane(points, valid)
  assert angle(found.normal, TILT) < 0.2
  assert found.offset == pytest.approx(-DISTANCE, abs=2e-4)
  assert found.spread == pytest.approx(1e-4, rel=0.3)
  again = clouds.background_plane(points, valid)
  np.testing.assert_array_equal(found.normal, again.normal)
  least = clouds.fit_plane(points[valid])  # which the ball and the rest draw away
  assert angle(least[0], TILT) > 1


def test_the_least_median_against_a_loop(rng):
  points, _, _ = ball(33)
  points = points + rng.normal(0, 1e-3, points.shape)
  valid = np.ones((33, 33), bool)
  band = 2
  valid_border = np.ones((33, 33), bool)
  valid_border[band:-band, band:-band] = False
  border = points[valid_border]
  triples = np.random.default_rng(0).integers(len(border), size=(300, 3))
  best = (np.inf, None)
  for one, two, three in triples:
    normal = np.cross(border[two] - border[one], border[three] - border[one])
    if np.linalg.norm(normal) <= 1e-6 * np.ptp(border, axis=0).max() ** 2:
      continue
    normal /= np.linalg.norm(normal)
    distances = sorted(abs(normal @ (point - border[one])) for point in border)
    middle = len(distances) // 2
    median = (distances[middle] + distances[~middle]) / 2
    best = min(best, (median, tuple(normal), tuple(border[one])))
  median, normal, place = best
  distances = np.abs((border - place) @ np.array(normal))
  near = border[distances <= 2.5 * 1.4826 * median]
  expected, _ = clouds.fit_plane(near)
  found = clouds.background_plane(points, valid)
  np.testing.assert_allclose(found.normal, expected, atol=1e-9)


def test_no_background_where_too_little_was_read():
  points = plane_points(40)
  assert clouds.background_plane(points, np.zeros((40, 40), bool)) is None
  line = np.zeros((40, 40), bool)
  line[0] = True
  straight = points.copy()
  straight[0] = np.linspace(0, 1, 40)[:, None] * (1, 2, 3) + (0, 0, 1)
  assert clouds.background_plane(straight, line) is None


def test_heights_above_a_tilted_plane():
  points, on_ball, _ = ball()
  found = clouds.heights(points, clouds.background_plane(points, np.ones_like(on_ball)))
  expected = (points @ TILT) + DISTANCE
  np.testing.assert_allclose(found[on_ball], expected[on_ball], atol=1e-9)
  np.testing.assert_allclose(found[~on_ball], 0, atol=1e-9)
  assert found.max() == pytest.approx(0.04, abs=1e-4)  # where the ball is highest


def test_a_flat_object_is_no_background(rng):
  points = plane_points(65) + rng.normal(0, 1e-4, (65, 65, 3))
  points[30:34, 30:34] += 5e-4 * TILT  # a bump of five spreads
  found = clouds.surface(points)
  assert found.heights[30:34, 30:34].mean() == pytest.approx(5e-4, rel=0.2)
  assert found.heights[:20].std() == pytest.approx(1e-4, rel=0.1)
  points[5:25, 5:25] += 8e-4 * TILT  # a large one of eight
  found = clouds.surface(points)
  assert found.heights[30:34, 30:34].mean() == pytest.approx(5e-4, rel=0.2)
  # Beside a ball the same bump is one of the background.
  points, on_ball, _ = ball()
  points += rng.normal(0, 1e-4, points.shape)
  points[2:6, 2:6] += 5e-4 * TILT
  found = clouds.surface(points)
  assert (found.heights[~on_ball] == 0).mean() > 0.98
  assert (found.heights[2:6, 2:6] == 0).mean() > 0.5


def test_holes_take_the_nearest_value(rng):
  valid = rng.random((12, 9)) > 0.7
  values = rng.random((12, 9, 2))
  found = clouds.filled(values, valid)
  places = np.argwhere(valid)
  for i, j in np.ndindex(12, 9):
    distances = ((places - (i, j)) ** 2).sum(1)
    nearest = [tuple(values[tuple(p)]) for p in places[distances == distances.min()]]
    assert tuple(found[i, j]) in nearest
  np.testing.assert_array_equal(found[valid], values[valid])
  assert clouds.filled(values, np.ones((12, 9), bool)) is values


def test_normals_of_a_plane_and_of_a_ball():
  points, on_ball, centre = ball(129)
  normals, found = clouds.surface_normals(points, np.ones_like(on_ball))
  assert found.all()
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1)
  assert (np.sum(normals * points, axis=-1) < 0).all()  # towards the origin
  # Within a few pixels of the ball's edge the smoothing sees both.
  y, x = np.mgrid[:129, :129] - 64
  edge = np.sqrt((x**2 + y**2)[on_ball].max())
  away = np.hypot(x, y)
  assert angle(normals, TILT)[away > edge + 8].max() < 0.1
  of_ball = (points - centre) / 0.03
  assert angle(normals, of_ball)[away < 0.6 * edge].max() < 2


def test_normals_beside_holes(rng):
  points = plane_points(40)
  valid = rng.random((40, 40)) > 0.4
  points[~valid] = 0
  normals, found = clouds.surface_normals(points, valid)
  assert angle(normals, TILT)[found].max() < 15  # smoothed over unlike neighbours
  for i, j in np.ndindex(40, 40):
    row = any(valid[i, k] for k in (j - 1, j + 1) if 0 <= k < 40)
    column = any(valid[k, j] for k in (i - 1, i + 1) if 0 <= k < 40)
    assert found[i, j] == (valid[i, j] and row and column)


def test_differences_against_a_loop(rng):
  points, valid = rng.random((6, 5, 3)), rng.random((6, 5)) > 0.3
  for axis in (0, 1):
    found, known = clouds._difference(points, valid, axis)
    for place in np.ndindex(6, 5):
      expected, any_ = np.zeros(3), False
      for step in (-1, 1):
        other = list(place)
        other[axis] += step
        inside = 0 <= other[axis] < points.shape[axis]
        if inside and valid[place] and valid[tuple(other)]:
          expected += step * (points[tuple(other)] - points[place])
          any_ = True
      np.testing.assert_allclose(found[place], expected)
      assert known[place] == any_


def test_normals_seen_from_above():
  plane = clouds.Plane(TILT, -DISTANCE, 0.0)
  np.testing.assert_allclose(clouds.upright(TILT, plane), [0, 0, 1], atol=1e-12)
  straight = clouds.Plane(np.array([0.0, 0.0, -1.0]), -1.0, 0.0)
  np.testing.assert_allclose(
    clouds.upright(np.array([[0.6, 0.0, -0.8], [0.0, 0.6, -0.8]]), straight),
    [[0.6, 0, 0.8], [0, 0.6, 0.8]],
  )
  # Angles stay what they are.
  others = np.array([[0.0, 0.6, -0.8], [1.0, 0.0, 0.0]])
  turned = clouds.upright(others, plane)
  np.testing.assert_allclose(turned[:, 2], others @ TILT)
  np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1)


def test_the_surface_of_a_cloud(rng):
  points, on_ball, _ = ball()
  points += rng.normal(0, 1e-4, points.shape)
  holes = rng.random(on_ball.shape) > 0.8
  points[holes] = 0
  found = clouds.surface(points.astype(np.float32))
  places = np.argwhere(~holes)
  for place in np.ndindex(holes.shape):
    nearest = np.sqrt(((places - place) ** 2).sum(1).min())
    assert found.valid[place] == (nearest <= 2)
  assert found.valid.mean() > 0.99
  flat = ~on_ball & ~holes
  assert (found.heights[flat] == 0).mean() > 0.99
  level = (found.heights == 0) & flat
  np.testing.assert_array_equal(found.normals[level], np.tile([0.0, 0, 1], (level.sum(), 1)))
  assert found.heights.max() == pytest.approx(0.04, abs=5e-4)
  np.testing.assert_allclose(np.linalg.norm(found.normals, axis=-1), 1)
  top = np.unravel_index(found.heights.argmax(), found.heights.shape)
  assert angle(found.normals[top], np.array([0, 0, 1])) < 15
  assert found.normals[on_ball].std(axis=0).min() > 0.1


def test_a_surface_without_a_background():
  points = plane_points(40)
  points[:5] = points[-5:] = points[:, :5] = points[:, -5:] = 0
  found = clouds.surface(points)
  inside = points[5:-5, 5:-5]
  expected = np.median(inside[..., 2]) - inside[..., 2]
  np.testing.assert_allclose(found.heights[5:-5, 5:-5], expected)
  assert angle(found.normals[20, 20] * (1, 1, -1), TILT) < 0.1
  alone = np.zeros((4, 4, 3))
  alone[1, 2] = (0.1, 0.2, 0.6)
  np.testing.assert_array_equal(clouds.surface(alone).normals[..., 2], 1)
  with pytest.raises(ValueError, match='no point'):
    clouds.surface(np.zeros((4, 4, 3)))


def test_points_that_are_not_seen_from_the_origin_are_refused(rng):
  points, _, _ = ball()
  points += rng.normal(0, 1e-4, points.shape)
  on_the_table = points + DISTANCE * TILT  # the origin, that is
  above_it = points + (DISTANCE - 0.02) * TILT
  for other in (on_the_table, above_it, points * (1, 1, -1)):
    with pytest.raises(ValueError, match='not seen from the origin'):
      clouds.surface(other)


@pytest.mark.parametrize('corner', [0.0, 32.0])
def test_steep_slopes_look_up_too(corner):
  y, x = np.mgrid[:65, :65] - corner
  bump = 12 * np.exp(-((x - 32 + corner) ** 2 + (y - 32 + corner) ** 2) / 50)  # slope 1.5
  points = np.stack([x, y, 100 - bump], -1) * 1e-3
  found = clouds.surface(points)
  assert found.normals[..., 2].min() > 0
  assert found.normals[..., 2].min() < 0.7
  assert found.heights.max() == pytest.approx(0.012, rel=0.05)
