"""curves.png: ROC, precision-recall and PRO curves of a category, and its image scores."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memkd_jax.files import atomic
from memkd_jax.metrics import PixelScores, ranking
from memkd_jax.metrics.scalars import rank_scores

# More points than this a plot of some hundred pixels cannot show.
_POINTS = 1000


def thin(x: np.ndarray, y: np.ndarray, number: int = _POINTS) -> tuple[np.ndarray, np.ndarray]:
  """Keeps points of a curve that are about equally far apart along it.

  Args:
    x: float [K], monotonic.
    y: float [K].
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
  path: Path, labels: np.ndarray, scores: np.ndarray, pixels: PixelScores | None = None
) -> None:
  """Draws the curves of images, those of pixels where there are masks, and a histogram.

  Args:
    path: the PNG to write.
    labels: int [N], 1 for an anomalous image.
    scores: image scores [N].
    pixels: scores of all pixels of the test set, None where there are no masks.
  """
  images = rank_scores(labels, scores)
  rankings = {'images': images}
  if pixels is not None:
    rankings['pixels'] = pixels.rank()
  figure = Figure(figsize=(6.4, 6.4), layout='constrained')
  layout = 'rp;ss' if pixels is None else 'rp;os'
  axes = figure.subplot_mosaic(layout)
  roc, precision = axes['r'], axes['p']
  for name, ranked in rankings.items():
    auroc = ranking.auroc_of(ranked)
    average = ranking.average_precision_of(ranked)
    roc.plot(*thin(*ranking.roc_curve_of(ranked)), label=f'{name}: AUC {auroc:.3f}')
    recalls, precisions = thin(*ranking.precision_recall_of(ranked))
    # Steps, so that the area under the curve is the average precision.
    precision.step(recalls, precisions, where='pre', label=f'{name}: AP {average:.3f}')
  roc.set(title='ROC', xlabel='false-positive rate', ylabel='true-positive rate')
  precision.set(title='precision and recall', xlabel='recall', ylabel='precision')
  if pixels is not None:
    curve = pixels.pro_curve()
    area = ranking.area_up_to(*curve, 0.3)
    axes['o'].plot(*thin(*curve), color='C1', label=f'PRO up to 0.3: {area:.3f}')
    axes['o'].axvline(0.3, color='gray', linestyle=':')
    axes['o'].set(title='PRO', xlabel='false-positive rate', ylabel='mean overlap of regions')
  for name, axis in axes.items():
    if name != 's':
      axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect='equal')
      axis.legend(loc='lower right', fontsize=9)
    axis.grid(alpha=0.3)
  _draw_scores(axes['s'], labels, scores, *ranking.f1_max_of(images))
  with atomic.atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=125)


def _draw_scores(
  axis: Axes, labels: np.ndarray, scores: np.ndarray, f1: float, threshold: float
) -> None:
  """Image scores of both classes, and the threshold that would have been best."""
  classes = {'normal': 'C0', 'anomalous': 'C3'}
  axis.hist(
    [scores[labels == label] for label in range(2)],
    bins=30,
    histtype='stepfilled',
    alpha=0.6,
    color=list(classes.values()),
    label=list(classes),
  )
  axis.axvline(
    threshold,
    color='black',
    linestyle='--',
    label=f'highest F1: {f1:.3f}, chosen\non these very test scores',
  )
  axis.set(title='image scores', xlabel='score', ylabel='images')
  axis.set_ylim(top=1.6 * axis.get_ylim()[1])  # room for the legend
  axis.legend(loc='upper right', fontsize=9)
