"""figure.png: rows of image, ground truth and predicted map (paper, Fig. 2)."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from memkd_jax import files
from memkd_jax.data.arrays import Split

_COLUMNS = 12


def worst_first(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Orders images from the worst mistake to the safest decision.

  A mistake is measured by the share of the other class that an image is ranked
  behind, and where that is equal by how far it is from the other class.

  Args:
    labels: [N], 1 for anomalous.
    scores: [N].

  Returns:
    int [N], indices.
  """
  normal, anomalous = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
  misranked = np.where(
    labels == 1,
    1 - np.searchsorted(normal, scores, side='left') / len(normal),
    np.searchsorted(anomalous, scores, side='right') / len(anomalous),
  )
  margin = np.where(labels == 1, scores - normal[-1], anomalous[0] - scores)
  return np.lexsort([margin, -misranked])


def write_figure(path: Path, test: Split, maps: np.ndarray, scores: np.ndarray) -> None:
  """Draws the images that were decided worst, the worst on the left.

  Args:
    path: the PNG to write.
    test: the decoded split.
    maps: [N, S, S], all drawn on one colour scale.
    scores: [N], image scores.
  """
  chosen = worst_first(test.labels, scores)[:_COLUMNS]
  rows = ['image', 'ground truth', 'predicted map']
  if test.masks is None:
    rows.remove('ground truth')
  low, high = maps.min(), np.quantile(maps, 0.999)
  figure = Figure(
    figsize=(1.5 * len(chosen) + 0.5, 1.5 * len(rows) + 0.6), layout='constrained'
  )
  axes = figure.subplots(len(rows), len(chosen), squeeze=False)
  for column, i in enumerate(chosen):
    pictures = {
      'image': {'X': test.images[i]},
      'predicted map': {'X': maps[i], 'cmap': 'inferno', 'vmin': low, 'vmax': high},
    }
    if test.masks is not None:
      pictures['ground truth'] = {'X': test.masks[i], 'cmap': 'gray', 'vmin': 0, 'vmax': 1}
    for row, name in enumerate(rows):
      axis = axes[row, column]
      axis.imshow(**pictures[name])
      axis.set_xticks([])
      axis.set_yticks([])
      if column == 0:
        axis.set_ylabel(name, fontsize=9)
    title = f'{test.ids[i].removeprefix("test/")}\nscore {scores[i]:.3f}'
    axes[0, column].set_title(title, fontsize=7, parse_math=False)
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=100)
