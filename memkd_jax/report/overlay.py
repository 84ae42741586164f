"""A heat map laid over its image."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from memkd_jax.scoring.calibration import Calibration, Threshold
from memkd_jax.scoring.regions import Region

_OPACITY = 0.75  # of the hottest pixels
_NEARLY = 0.999  # quantile of all pixels that has the last colour
_ENOUGH = 100_000_000  # pixels to tell it from
_SMALLEST = 1e-12  # range of values: a map may be flat


def heat_map(image: np.ndarray, map_: np.ndarray, low: float, high: float) -> np.ndarray:
  """Lays a map over its image: the hotter, the less of the image shines through.

  Args:
    image: uint8 [H, W, 3].
    map_: anomaly map [H, W].
    low: the map's value from which on a pixel is coloured.
    high: the map's value from which on a pixel has the last colour.

  Returns:
    uint8 [H, W, 3].
  """
  heat = np.clip((map_ - low) / max(high - low, _SMALLEST), 0, 1)
  color = colors()(heat)[..., :3] * 255
  opacity = _OPACITY * np.sqrt(heat)[..., None]
  return np.rint((1 - opacity) * image + opacity * color).astype(np.uint8)


def colors() -> Any:
  """The colours of maps, and a grey where a masked one does not count."""
  import matplotlib  # takes as long to import as some images take to score

  return matplotlib.colormaps['inferno'].with_extremes(bad='0.5')


def counting(map_: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
  """A map [H, W] as a masked array without what does not count; itself where all does."""
  return map_ if seen is None else np.ma.array(map_, mask=~seen)


def common_range(maps: Sequence[np.ndarray] | np.ndarray) -> tuple[float, float]:
  """The values between which several maps are coloured: the lowest, and nearly the highest.

  Args:
    maps: [H, W] each, masked where they do not count; of very many pixels only some tell what
      is nearly the highest.
  """
  step = max(1, sum(map_.size for map_ in maps) // _ENOUGH)
  some = np.concatenate([np.ma.compressed(map_.ravel()[::step]) for map_ in maps])
  return float(min(map_.min() for map_ in maps)), float(np.quantile(some, _NEARLY))


def draw_boxes(picture: Image.Image, regions: Iterable[Region], size: tuple[int, int]) -> None:
  """Draws the boxes of regions on a picture of their image, a pixel outside of them.

  Args:
    picture: RGB, of any size; it is changed.
    regions: the regions to mark, in pixels of the image.
    size: (width, height) of the image.
  """
  canvas = ImageDraw.Draw(picture)
  across, down = (shown / own for shown, own in zip(picture.size, size, strict=True))
  for region in regions:
    left, top = region.left * across, region.top * down
    right, bottom = left + region.width * across, top + region.height * down
    canvas.rectangle((left - 1, top - 1, right, bottom), outline='white')


def color_range(
  calibration: Calibration | None, threshold: Threshold | None, map_: np.ndarray
) -> tuple[float, float]:
  """Chooses the values between which `heat_map` colours.

  Args:
    calibration: the detector's calibration, None where it has none.
    threshold: the threshold of images in use, None where it does not decide.
    map_: anomaly map [H, W].

  Returns:
    (low, high): from the median of normal pixels, or 0 where no calibration tells it, with the
    threshold at two thirds of the range, or the highest held-out score where there is none.
    Without both, and where the threshold lies below ordinary pixels, the map's own smallest and
    largest value; then the colours of different images cannot be compared.
  """
  low = 0.0 if calibration is None else calibration.pixel_threshold(0.5)
  mark = -math.inf
  if threshold is not None:
    mark = threshold.value
  elif calibration is not None:
    mark = float(calibration.scores[-1])
  if mark <= low:
    return float(map_.min()), float(map_.max())
  return low, low + 1.5 * (mark - low)
