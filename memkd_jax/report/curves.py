"""curves.png: ROC, precision-recall and PRO curves of a category."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from memkd_jax import files
from memkd_jax.metrics import PixelScores, ranking
from memkd_jax.metrics.scalars import rank_scores

# More points than this a plot of some hundred pixels cannot show.
_POINTS = 1000


def thin(x: np.ndarray, y: np.ndarray, number: int = _POINTS) -> tuple[np.ndarray, np.ndarray]:
  """Keeps points of a curve that are about equally far apart along it.

  Args:
    x: [K], monotonic.
    y: [K].
    number: how many points to keep at most; both ends are among them.

  Returns:
    (x, y) of the points kept; the same curve where K is small enough.
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
  """Draws the curves of images, and those of pixels where there are masks.

  Args:
    path: the PNG to write.
    labels: [N], 1 for anomalous.
    scores: image scores [N].
    pixels: all pixels of the test set, or None.
  """
  rankings = {'images': rank_scores(labels, scores)}
  if pixels is not None:
    rankings['pixels'] = pixels.rank()
  columns = 2 if pixels is None else 3
  figure = Figure(figsize=(3.6 * columns, 3.6), layout='constrained')
  axes = figure.subplots(1, columns)
  for name, ranked in rankings.items():
    auroc = ranking.auroc_of(ranked)
    precision = ranking.average_precision_of(ranked)
    axes[0].plot(*thin(*ranking.roc_curve_of(ranked)), label=f'{name}: AUC {auroc:.3f}')
    recalls, precisions = thin(*ranking.precision_recall_of(ranked))
    # Steps, so that the area under the curve is the average precision.
    axes[1].step(recalls, precisions, where='pre', label=f'{name}: AP {precision:.3f}')
  axes[0].set(title='ROC', xlabel='false-positive rate', ylabel='true-positive rate')
  axes[1].set(title='precision and recall', xlabel='recall', ylabel='precision')
  if pixels is not None:
    curve = pixels.pro_curve()
    area = ranking.area_up_to(*curve, 0.3)
    axes[2].plot(*thin(*curve), color='C1', label=f'PRO up to 0.3: {area:.3f}')
    axes[2].axvline(0.3, color='gray', linestyle=':')
    axes[2].set(title='PRO', xlabel='false-positive rate', ylabel='mean overlap of regions')
  for axis in axes:
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect='equal')
    axis.legend(loc='lower right', fontsize=8)
    axis.grid(alpha=0.3)
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=100)
