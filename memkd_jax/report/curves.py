"""curves.png: ROC, precision-recall and PRO curves of a category, and its image scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from memkd_jax.files import atomic
from memkd_jax.metrics import PixelScores, ranking
from memkd_jax.metrics.scalars import rank_scores
from memkd_jax.scoring.calibration import Threshold

# More points than this a plot of some hundred pixels cannot show.
_POINTS = 1000


def thin(x: np.ndarray, y: np.ndarray, number: int = _POINTS) -> tuple[np.ndarray, np.ndarray]:
  """Keeps points of a curve that are about equally far apart along it.

  Args:
    x: the abscissas of a curve, float [K], monotonic.
    y: the ordinates of the curve, float [K].
    number: how many points to keep at most; both ends are among them.

  Returns:
    (x, y) of the points that are kept; the same arrays where K is at most `number`.
  """
  if len(x) <= number:
    return x, y
  length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
  kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], number - 1)))
  kept = np.union1d(np.minimum(kept, len(x) - 1), [0, len(x) - 1])
  return x[kept], y[kept]


def write_curves(
  path: Path,
  labels: np.ndarray,
  scores: np.ndarray,
  pixels: PixelScores | None = None,
  held_out: np.ndarray | None = None,
  threshold: Threshold | None = None,
) -> None:
  """Draws the curves that the images define, and a histogram of the scores.

  Args:
    path: the PNG to write.
    labels: int [N], 1 for an anomalous image; of one class alone there are no curves of images.
    scores: the scores of the test images, float [N].
    pixels: scores of all pixels of the test set, None where they define no curves.
    held_out: image scores [M] of normal images that the threshold was made of.
    threshold: the score by which images are decided.
  """
  images = rank_scores(labels, scores) if len(np.unique(labels)) > 1 else None
  rankings = {} if images is None else {'images': images}
  if pixels is not None:
    rankings['pixels'] = pixels.rank()
  if rankings:
    figure = Figure(figsize=(6.4, 6.4), layout='constrained')
    axes = figure.subplot_mosaic('rp;ss' if pixels is None else 'rp;os')
    _draw_curves(axes, rankings, pixels)
  else:
    figure = Figure(figsize=(6.4, 3.2), layout='constrained')
    axes = figure.subplot_mosaic('s')
  classes = {'normal': scores[labels == 0], 'anomalous': scores[labels == 1]}
  if held_out is not None:
    classes['held out, normal'] = held_out
  best = None if images is None else ranking.f1_max_of(images)
  _draw_scores(axes['s'], {name: s for name, s in classes.items() if len(s)}, best, threshold)
  with atomic.atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=125)


def _draw_curves(
  axes: Mapping[str, Axes],
  rankings: Mapping[str, ranking.Ranking],
  pixels: PixelScores | None,
) -> None:
  """The curves of 'images' and of 'pixels': ROC into 'r', PR into 'p', PRO into 'o'."""
  roc, precision = axes['r'], axes['p']
  for name, ranked in rankings.items():
    color = {'images': 'C0', 'pixels': 'C1'}[name]
    auroc = ranking.auroc_of(ranked)
    average = ranking.average_precision_of(ranked)
    curve = thin(*ranking.roc_curve_of(ranked))
    roc.plot(*curve, color=color, label=f'{name}: AUC {auroc:.3f}')
    recalls, precisions = thin(*ranking.precision_recall_of(ranked))
    # Steps, so that the area under the curve is the average precision.
    label = f'{name}: AP {average:.3f}'
    precision.step(recalls, precisions, where='pre', color=color, label=label)
  roc.set(title='ROC', xlabel='false-positive rate', ylabel='true-positive rate')
  precision.set(title='precision and recall', xlabel='recall', ylabel='precision')
  if pixels is not None:
    pro = pixels.pro_curve()
    area = ranking.area_up_to(*pro, 0.3)
    axes['o'].plot(*thin(*pro), color='C1', label=f'PRO up to 0.3: {area:.3f}')
    axes['o'].axvline(0.3, color='gray', linestyle=':')
    axes['o'].set(title='PRO', xlabel='false-positive rate', ylabel='mean overlap of regions')
  for name, axis in axes.items():
    if name != 's':
      axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect='equal')
      axis.legend(loc='lower right', fontsize=9)
      axis.grid(alpha=0.3)


def _draw_scores(
  axis: Axes,
  classes: Mapping[str, np.ndarray],
  best: tuple[float, float] | None,
  threshold: Threshold | None,
) -> None:
  """Image scores of all classes, the threshold, and the one that would have been best."""
  colors = {'normal': 'C0', 'anomalous': 'C3', 'held out, normal': 'C2'}
  axis.hist(
    list(classes.values()),
    bins=30,
    histtype='stepfilled',
    alpha=0.6,
    color=[colors[name] for name in classes],
    label=list(classes),
  )
  if threshold is not None:
    axis.axvline(threshold.value, color='C2', label=f'threshold: {threshold.value:.4g}')
  if best is not None:
    f1, value = best
    axis.axvline(
      value,
      color='black',
      linestyle='--',
      label=f'highest F1: {f1:.3f}, chosen\non these very test scores',
    )
  axis.grid(alpha=0.3)
  axis.yaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set(title='image scores', xlabel='score', ylabel='images')
  axis.set_ylim(top=1.6 * axis.get_ylim()[1])  # room for the legend
  axis.legend(loc='upper right', fontsize=9)
