"""Organised point clouds: background plane, heights above it, holes, and surface normals.

A cloud is a picture whose pixels are points, (x, y, z) seen from the origin, as the scanner of
MVTec 3D-AD writes it; (0, 0, 0) where nothing was read. All is deterministic, in float64.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

_BORDER = 0.05  # of the shorter side: the band in which the background is looked for
_DRAWS = 300  # of three points: with half of them beside the plane 1 - (7/8)**300 find it
_INLIERS = 2.5  # robust standard deviations
_FLAT = 6.0  # of these, within which a point is of the background, which is not quite flat
# Pixels from a reading within which its value counts: scanners leave out single ones.
_NEAR = 2.0
# An object on a background has this share of the readings at least, and stands out by this many
# times as much as the background does.
_SMALLEST, _LOWEST = 0.05, 2.0
_MOST = 0.99  # of the points: as high as these an object is nearer than the scanner
_MOST_OF_BORDER = 4000  # points of the border by which a plane is judged
_NOT_SEEN = (
  'its points are not seen from the origin; x, y and z have to be those of a scanner at '
  '(0, 0, 0) that looks along z, (0, 0, 0) where nothing was read'
)
_FEWEST = 20  # points of the border
_SMOOTHING = 1.5  # pixels, standard deviation: readings are rounded


class Plane(NamedTuple):
  """The points p with normal . p = offset.

  Attributes:
    normal: unit vector [3], towards the origin, from where the plane is seen.
    offset: the plane's distance from the origin along the normal, in the unit of the points.
    spread: robust standard deviation of the points that it was fitted to, in their unit.
  """

  normal: np.ndarray
  offset: float
  spread: float


class Surface(NamedTuple):
  """What a cloud is to a detector, without the background and without holes.

  Attributes:
    heights: float64 [H, W], see `heights`, 0 on the background; where there is no plane how
      much nearer than the median of all points, along z.
    normals: float64 [H, W, 3], see `upright`; (0, 0, 1) on the background.
    valid: bool [H, W], where there was a reading two pixels away at most.
  """

  heights: np.ndarray
  normals: np.ndarray
  valid: np.ndarray


def surface(points: np.ndarray) -> Surface:
  """All of a cloud [H, W, 3].

  Raises:
    ValueError: nothing was read, or the points are not seen from the origin.
  """
  valid = has_reading(points)
  if not valid.any():
    raise ValueError('no point of it was read')
  if np.median(points[valid, 2]) <= 0:
    raise ValueError(_NOT_SEEN)
  points = np.where(valid[..., None], points, 0.0).astype(np.float64)
  plane = background_plane(points, valid)
  normals, found = surface_normals(points, valid)
  if plane is None:
    above = np.median(points[valid, 2]) - points[..., 2]
    normals = normals * (1.0, 1.0, -1.0)
  else:
    above, normals = heights(points, plane), upright(normals, plane)
    if abs(plane.offset) <= np.quantile(np.abs(above[valid]), _MOST):
      raise ValueError(_NOT_SEEN)
    background = is_background(above, valid, plane)
    above[background], normals[background] = 0.0, (0.0, 0.0, 1.0)
    found |= background
  if not found.any():
    normals, found = np.broadcast_to((0.0, 0.0, 1.0), points.shape), valid
  near = ndimage.distance_transform_edt(~valid) <= _NEAR
  return Surface(filled(above, valid), filled(normals, found), np.asarray(near))


def has_reading(points: np.ndarray) -> np.ndarray:
  """Where a cloud [H, W, 3] has a point, bool [H, W]: not (0, 0, 0), and finite."""
  return np.asarray((points != 0).any(-1) & np.isfinite(points).all(-1))


def fit_plane(points: np.ndarray) -> tuple[np.ndarray, float]:
  """The plane with the least squared distances: ([3] unit normal towards the origin, offset).

  Args:
    points: points in space, [N, 3], not all on a line.
  """
  centre = points.mean(axis=0)
  _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
  normal = axes[-1]
  offset = float(normal @ centre)
  return (-normal, -offset) if offset > 0 else (normal, offset)


def background_plane(points: np.ndarray, valid: np.ndarray, seed: int = 0) -> Plane | None:
  """The plane on which the object lies, from the border of the picture.

  Least median of squares (Rousseeuw 1984) over triples of its points, of which less than half
  may lie elsewhere; then least squares over the points that are near.

  Args:
    points: the points of the picture, floating [H, W, 3].
    valid: bool [H, W], which of the points were read.
    seed: the seed by which triples of points are drawn.

  Returns:
    The plane; None where the border has no 20 points, or they are all on a line.
  """
  height, width = valid.shape
  band = max(1, round(_BORDER * min(height, width)))
  border = np.ones_like(valid)
  border[band : height - band, band : width - band] = False
  found = points[border & valid].astype(np.float64)
  if len(found) < _FEWEST:
    return None
  rng = np.random.default_rng(seed)
  if len(found) > _MOST_OF_BORDER:
    found = found[rng.choice(len(found), _MOST_OF_BORDER, replace=False)]
  triples = found[rng.integers(len(found), size=(_DRAWS, 3))]
  normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
  lengths = np.linalg.norm(normals, axis=1)
  extent = np.ptp(found, axis=0).max()
  proper = lengths > 1e-6 * extent**2
  if not proper.any():
    return None
  normals = normals[proper] / lengths[proper, None]
  offsets = np.sum(normals * triples[proper, 0], axis=1)
  medians = np.array(
    [
      np.median(np.abs(found @ normal - offset))
      for normal, offset in zip(normals, offsets, strict=True)
    ]
  )
  best = medians.argmin()
  spread = 1.4826 * medians[best]  # of a normal distribution
  distances = np.abs(found @ normals[best] - offsets[best])
  near = found[distances <= _INLIERS * spread + 1e-9 * extent]
  normal, offset = fit_plane(near)
  spread = 1.4826 * float(np.median(np.abs(near @ normal - offset)))
  return Plane(normal, offset, spread)


def heights(points: np.ndarray, plane: Plane) -> np.ndarray:
  """How far above a plane each point [H, W, 3] is, towards the origin: [H, W], in its unit."""
  return np.asarray(points.astype(np.float64) @ plane.normal - plane.offset)


def is_background(above: np.ndarray, valid: np.ndarray, plane: Plane) -> np.ndarray:
  """Where a picture shows the plane beside the object, bool [H, W].

  That is as near to it as its own points are, by six of their spreads. Where nothing stands out
  that is as large and as high as an object, the plane is the surface of a flat one, and nothing
  is background.

  Args:
    above: heights above the plane, floating [H, W], as `heights` gives them.
    valid: bool [H, W], where there is a reading.
    plane: the background, as `background_plane` gives it.
  """
  near = np.abs(above) <= _FLAT * plane.spread
  flat, standing = valid & near, valid & ~near
  large = standing.sum() >= _SMALLEST * valid.sum()
  if large and np.median(np.abs(above[standing])) >= _LOWEST * _FLAT * plane.spread:
    return np.asarray(flat)
  return np.zeros_like(flat)


def filled(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """Values with those of the nearest valid pixel where they are not valid.

  Args:
    values: values of pixels, of any dtype, [H, W, ...].
    valid: bool [H, W], which pixels are valid; True somewhere.
  """
  if valid.all():
    return values
  rows, columns = ndimage.distance_transform_edt(
    ~valid, return_distances=False, return_indices=True
  )
  return np.asarray(values[rows, columns])


def surface_normals(points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Unit normals of the surface towards the origin, by differences of smoothed points.

  Args:
    points: the points of the picture, [H, W, 3], all in one unit, so that angles are true.
    valid: bool [H, W], which of the points were read.

  Returns:
    (float64 [H, W, 3], bool [H, W] where there is one: at a valid pixel with a valid neighbour
    in its row and in its column, which do not lie on one line).
  """
  smooth = _smoothed(points, valid)
  across, has_row = _difference(smooth, valid, axis=1)
  down, has_column = _difference(smooth, valid, axis=0)
  normals = np.cross(across, down)
  lengths = np.linalg.norm(normals, axis=-1)
  found = valid & has_row & has_column & (lengths > 0)
  normals = normals / np.where(found, lengths, 1.0)[..., None]
  # On a grid all look to the same side of it; a single ray may be steeper than a surface.
  away = np.sum(normals * smooth, axis=-1)[found] > 0
  return (-normals if 2 * away.sum() > len(away) else normals), found


def upright(normals: np.ndarray, plane: Plane) -> np.ndarray:
  """Normals as someone sees them who looks straight down on the background.

  They are turned by the least turn that lets the background look along the line of sight, so
  that rows stay rows; the third component then tells how far one looks up: 1 on the background.

  Args:
    normals: surface normals, floating [..., 3].
    plane: the background, as `background_plane` gives it; not seen from behind.
  """
  x, y, z = plane.normal
  # Rodrigues' formula for the turn of the normal to (0, 0, -1), which it is near.
  turn = np.array([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]])
  rotation = np.eye(3) + turn + turn @ turn / (1.0 - z)
  return np.asarray(normals @ rotation.T * (1.0, 1.0, -1.0))


def _smoothed(points: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """The points averaged by a Gaussian over those that were read alone, [H, W, 3]."""
  known = np.where(valid[..., None], points.astype(np.float64), 0.0)
  sums = ndimage.gaussian_filter(known, (_SMOOTHING, _SMOOTHING, 0), mode='constant')
  weights = ndimage.gaussian_filter(valid.astype(np.float64), _SMOOTHING, mode='constant')
  return np.asarray(sums / np.where(valid, weights, 1.0)[..., None])


def _difference(
  points: np.ndarray, valid: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray]:
  """The change along an axis, between both neighbours or one and the pixel itself.

  Returns:
    ([H, W, 3], bool [H, W] whether any neighbour was read).
  """
  later, earlier = [slice(None)] * 2, [slice(None)] * 2
  later[axis], earlier[axis] = slice(1, None), slice(None, -1)
  both = valid[tuple(later)] & valid[tuple(earlier)]
  step = np.where(both[..., None], points[tuple(later)] - points[tuple(earlier)], 0.0)
  found, known = np.zeros_like(points), np.zeros_like(valid)
  for place in (tuple(earlier), tuple(later)):
    found[place] += step
    known[place] |= both
  return found, known
