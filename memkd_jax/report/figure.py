"""figure.png: image, ground truth and predicted map (paper, Fig. 2) of telling cases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from memkd_jax.data.splits import Split
from memkd_jax.files import atomic
from memkd_jax.report.overlay import colors, common_range, counting

_COLUMNS = 4

# Pixels of the PNG, which a phone shows at less than half their size.
_TILE, _GAP, _LEFT, _HEAD, _TITLE = 192, 8, 36, 56, 56
_DPI = 100
_FONT: dict[str, Any] = {'fontsize': 14, 'parse_math': False}  # names may hold dollar signs


def worst_first(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Orders images from the worst mistake to the safest decision.

  A mistake is measured by the share of the other class that is ranked on the wrong side
  of the image; ties are broken by the distance of its score from the other class.

  Args:
    labels: int [N], 1 for an anomalous image.
    scores: the scores of the test images, float [N].

  Returns:
    int [N], indices of the images.
  """
  normal, anomalous = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
  misranked = np.where(
    labels == 1,
    1 - np.searchsorted(normal, scores, side='left') / len(normal),
    np.searchsorted(anomalous, scores, side='right') / len(anomalous),
  )
  margin = np.where(labels == 1, scores - normal[-1], anomalous[0] - scores)
  return np.lexsort([margin, -misranked])


def choose_cases(
  labels: np.ndarray, scores: np.ndarray, number: int = _COLUMNS
) -> dict[str, np.ndarray]:
  """Picks cases from both ends and from the middle.

  Args:
    labels: int [N], 1 for an anomalous image; where there is one class alone, nothing is
      decided well or badly, and the order is by the score.
    scores: the scores of the test images, float [N].
    number: how many cases a group has at most.

  Returns:
    {'worst', 'median', 'best': indices, from worse to better}, of one class alone {'highest',
    'median', 'lowest'}. No image is in two groups: where there are few images, groups are
    smaller, and an empty one is left out.
  """
  both = len(np.unique(labels)) > 1
  order = worst_first(labels, scores) if both else np.argsort(-scores, kind='stable')
  number = min(number, (len(order) + 1) // 3)
  rest = order[number : len(order) - number]
  middle = max(len(rest) - number, 0) // 2
  groups = {
    'worst' if both else 'highest': order[:number],
    'median': rest[middle : middle + number],
    'best' if both else 'lowest': order[len(order) - number :],
  }
  return {name: group for name, group in groups.items() if len(group)}


def choose_highest(scores: np.ndarray) -> dict[str, np.ndarray]:
  """The indices of the highest scores [N] as groups for `write_figure`."""
  order = np.argsort(-scores, kind='stable')
  groups = {'highest': order[:_COLUMNS], 'next': order[_COLUMNS : 2 * _COLUMNS]}
  return {name: group for name, group in groups.items() if len(group)}


def write_figure(
  path: Path,
  split: Split,
  maps: np.ndarray,
  scores: np.ndarray,
  groups: Mapping[str, np.ndarray],
  parts: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Draws some images with their maps.

  Args:
    path: the PNG to write.
    split: the decoded split of N images.
    maps: anomaly maps [N, H, W], or objects [N], drawn with one colour scale for all.
    scores: the scores of the test images, float [N].
    groups: {title: indices of the images}, see `choose_cases`.
    parts: {name: [N, h, w]}, the maps that became one, each drawn with a scale of its own.
  """
  parts = parts or {}
  inputs = split.framing.inputs
  pictures = {name if len(inputs) > 1 else 'image': k for k, name in enumerate(inputs)}
  rows = [*pictures, *['ground truth'][: split.masks is not None]]
  rows += [*(f'map of {name}' for name in parts), 'predicted map']
  shown = [counting(map_, split.seen(i)) for i, map_ in enumerate(maps)]
  scales = {f'map of {name}': common_range(list(part)) for name, part in parts.items()}
  scales['predicted map'] = common_range(shown)
  step = _TILE + _GAP
  width = _LEFT + _COLUMNS * step
  height = len(groups) * (_HEAD + _TITLE + len(rows) * step)
  figure = Figure(figsize=(width / _DPI, height / _DPI))

  def text(x: float, y: float, content: str, **how: Any) -> None:
    figure.text(x / width, 1 - y / height, content, **(_FONT | how))

  top = 0
  for name, group in groups.items():
    text(_LEFT, top + _HEAD / 2, name, fontsize=17, weight='bold', va='center')
    top += _HEAD
    for column, i in enumerate(group):
      sample = split.samples[i]
      left = _LEFT + column * step
      text(left, top + 18, _shorten(sample.defect))
      text(left, top + 42, f'{_shorten(sample.stem, 9)}  {scores[i]:.3f}')
    top += _TITLE
    for row in rows:
      text(_LEFT / 2, top + _TILE / 2, row, rotation=90, ha='center', va='center')
      for column, i in enumerate(group):
        box = (_LEFT + column * step, height - top - _TILE, _TILE, _TILE)
        axis = figure.add_axes(tuple(np.divide(box, (width, height, width, height))))
        axis.axis('off')
        if row in pictures:
          first = 4 * pictures[row]
          axis.imshow(split.images[i][..., first : first + 3])
        elif row in scales:
          map_ = shown[i] if row == 'predicted map' else parts[row.removeprefix('map of ')][i]
          axis.imshow(map_, cmap=colors(), vmin=scales[row][0], vmax=scales[row][1])
        elif split.masks is not None:
          axis.imshow(split.masks[i], cmap='gray', vmin=0, vmax=1)
      top += step
  with atomic.atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=_DPI)


def _shorten(name: str, length: int = 15) -> str:
  return name if len(name) <= length else '…' + name[1 - length :]
