"""The connected parts of a map above a threshold: what a person would circle."""

import dataclasses

import numpy as np
from scipy import ndimage
from skimage import measure

from memkd_jax.metrics.pixels import EIGHT_CONNECTED

_FINEST = 512  # steps along the longer side of a region's box that its outline follows
_STRAIGHT = 0.4  # steps that an outline may be off the pixels' edge, to have fewer corners


@dataclasses.dataclass(frozen=True)
class Region:
  """A connected part of an image; all in pixels of the image, from 0 at the top left.

  Attributes:
    left: the box's first column.
    top: the box's first row.
    width: width of the box.
    height: height of the box.
    area: how many pixels the part has.
    row: row of the centroid.
    column: column of the centroid.
    peak_row: row of the highest value.
    peak_column: column of the highest value.
    score: the highest value of the map.
    inside: bool [height, width], which pixels of the box belong to it.
  """

  left: int
  top: int
  width: int
  height: int
  area: int
  row: float
  column: float
  peak_row: int
  peak_column: int
  score: float
  inside: np.ndarray = dataclasses.field(repr=False, compare=False)

  def facts(self) -> dict[str, int | float]:
    """All but `inside`, by name."""
    return {name: getattr(self, name) for name in FACTS}


# What tables have of a region.
FACTS = tuple(field.name for field in dataclasses.fields(Region) if field.name != 'inside')


def find_regions(map_: np.ndarray, threshold: float, smallest: int = 1) -> list[Region]:
  """The parts of a map whose pixels are all above a threshold.

  Args:
    map_: anomaly map [H, W], at the size of the image.
    threshold: the value that all pixels of a region exceed, see `BaseDetector.pixel_threshold`.
    smallest: parts of fewer pixels are left out.

  Returns:
    The regions, that with the highest value first.
  """
  above = map_ > threshold
  if not above.any():
    return []
  # Labels take four times as much memory as this: they are made where there is something.
  first, last = zip(*(_ends(np.asarray(above.any(axis=axis))) for axis in (1, 0)), strict=True)
  above, map_ = (x[first[0] : last[0], first[1] : last[1]] for x in (above, map_))
  labels, number = ndimage.label(above, EIGHT_CONNECTED)
  regions = []
  for label, (rows, columns) in enumerate(ndimage.find_objects(labels, number), start=1):
    inside = labels[rows, columns] == label
    if (area := int(inside.sum())) < smallest:
      continue
    places = np.argwhere(inside)
    row, column = places.mean(axis=0)
    values = map_[rows, columns][inside]
    highest = int(values.argmax())
    regions.append(
      Region(
        left=first[1] + columns.start,
        top=first[0] + rows.start,
        width=columns.stop - columns.start,
        height=rows.stop - rows.start,
        area=area,
        row=first[0] + rows.start + float(row),
        column=first[1] + columns.start + float(column),
        peak_row=first[0] + rows.start + int(places[highest, 0]),
        peak_column=first[1] + columns.start + int(places[highest, 1]),
        score=float(values[highest]),
        inside=inside,
      )
    )
  return sorted(regions, key=lambda region: -region.score)


def _ends(held: np.ndarray) -> tuple[int, int]:
  """The first place that holds something, and that behind the last one."""
  places = np.flatnonzero(held)
  return int(places[0]), int(places[-1]) + 1


def run_lengths(region: Region, size: tuple[int, int]) -> list[int]:
  """The region in its image as COCO's uncompressed run lengths: column by column, zeros first.

  Args:
    region: the region, in pixels of the image.
    size: (width, height) of the image.
  """
  width, height = size
  # Down each column of the box, from above it to below it.
  steps = np.diff(np.pad(region.inside.astype(np.int8), ((1, 1), (0, 0))), axis=0).T
  begins, ends = (
    (region.left + columns) * height + region.top + rows
    for columns, rows in (np.nonzero(steps == step) for step in (1, -1))
  )
  apart = begins[1:] != ends[:-1]  # else it goes on from one column to the next
  begins, ends = begins[np.r_[True, apart]], ends[np.r_[apart, True]]
  changes = np.stack([begins, ends], axis=1).ravel()
  return [int(n) for n in np.diff(np.r_[0, changes, width * height])]


def outline(region: Region) -> list[tuple[float, float]]:
  """The line around a region, without that around its holes.

  It runs within a pixel of the region's edge; of a region of more than 512 pixels' length
  within a 512th of that.

  Args:
    region: one of the regions of an image.

  Returns:
    The corners of a polygon, (column, row) each, in pixels of the image: 0 is the left or upper
    edge of the first pixel, and the last corner is joined to the first.
  """
  step = -(-max(region.width, region.height) // _FINEST)
  coarse = measure.block_reduce(region.inside, step, np.max)
  # With a rim, as a line around what touches the border would stay open.
  filled = np.pad(ndimage.binary_fill_holes(coarse), 1)
  # Pixels that touch at a corner are together, as in `find_regions`: there is one line.
  line = measure.find_contours(filled, 0.5, fully_connected='high')[0][:-1]
  line = measure.approximate_polygon(np.r_[line, line[:1]], _STRAIGHT)[:-1]
  # Centres of pixels lie at halves, and the rim is one step.
  rows, columns = ((line - 0.5) * step).T
  rows = np.clip(rows, 0, region.height) + region.top
  columns = np.clip(columns, 0, region.width) + region.left
  return [(round(float(x), 1), round(float(y), 1)) for x, y in zip(columns, rows, strict=True)]
