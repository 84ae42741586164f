"""Lays an anomaly map over its image."""

import matplotlib
import numpy as np

_STRONGEST = 0.85  # opacity where the map is at its highest; the image stays visible


def heat_map(image: np.ndarray, map_: np.ndarray, low: float, high: float) -> np.ndarray:
  """Colours a map (inferno) and lays it over its image, the stronger the higher it is.

  Args:
    image: uint8 [S, S, 3].
    map_: float32 [S, S], raw.
    low: value, and below, at which the image alone is seen.
    high: value, and above, of the brightest colour.

  Returns:
    uint8 [S, S, 3].
  """
  span = max(high - low, 1e-30)
  level = np.clip((map_.astype(np.float64) - low) / span, 0, 1)
  colors = matplotlib.colormaps['inferno'](level)[..., :3] * 255
  alpha = _STRONGEST * level[..., None]
  return np.rint((1 - alpha) * image + alpha * colors).astype(np.uint8)
