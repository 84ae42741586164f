"""A heat map laid over its image."""

import matplotlib
import numpy as np

from memkd_jax.scoring.calibration import Calibration, Threshold

_OPACITY = 0.75  # of the hottest pixels
_SMALLEST = 1e-12  # range of values: a map may be flat


def heat_map(image: np.ndarray, map_: np.ndarray, low: float, high: float) -> np.ndarray:
  """Lays a map over its image: the hotter, the less of the image shines through.

  Args:
    image: uint8 [H, W, 3].
    map_: [H, W].
    low: value from which on a pixel is coloured.
    high: value that has the last colour.

  Returns:
    uint8 [H, W, 3].
  """
  heat = np.clip((map_ - low) / max(high - low, _SMALLEST), 0, 1)
  color = matplotlib.colormaps['inferno'](heat)[..., :3] * 255
  opacity = _OPACITY * np.sqrt(heat)[..., None]
  return np.rint((1 - opacity) * image + opacity * color).astype(np.uint8)


def color_range(
  calibration: Calibration | None, threshold: Threshold | None, map_: np.ndarray
) -> tuple[float, float]:
  """What `heat_map` takes as low and high.

  Args:
    calibration: of the detector, with
    threshold: or None: then maps of different images cannot be compared.
    map_: [H, W].

  Returns:
    From the median of normal pixels, so that the threshold lies at two thirds; the map's
    own range where there is no calibration.
  """
  if calibration is None or threshold is None:
    return float(map_.min()), float(map_.max())
  low = calibration.pixel_threshold(0.5)
  return low, low + 1.5 * (threshold.value - low)
