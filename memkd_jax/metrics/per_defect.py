"""The metrics of each kind of defect alone, so that a weak one is seen."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from memkd_jax.metrics.one_pass import evaluate_pixels
from memkd_jax.metrics.scalars import auroc, average_precision


def per_defect(
  defects: Sequence[str],
  scores: ArrayLike,
  masks: Sequence[ArrayLike] | np.ndarray | None = None,
  maps: Sequence[ArrayLike] | np.ndarray | None = None,
  normal: str = 'good',
) -> dict[str, dict[str, float]]:
  """Scores each kind of defect against all the normal images.

  Args:
    defects: kind of each image, `normal` for a normal one; N names.
    scores: image scores [N], real and finite.
    masks: ground truth, [N, H, W] or N arrays; None to leave the pixel metrics out.
    maps: anomaly maps of the same shapes, None where masks are.
    normal: the name of the normal images.

  Returns:
    {defect: {'I-AUC', 'I-AP' and, with masks, 'P-AUC', 'P-AP', 'P-PRO',
    'P-F1max'}}, sorted by name, each in [0, 1]. Mind that average precision
    depends on how many images there are of the kind.

  Raises:
    ValueError: numbers differ, there is no normal or no anomalous image, or a
      kind has masks without any defect.

  >>> per_defect(['good', 'good', 'crack', 'hole'], [0.1, 0.3, 0.2, 0.9])
  {'crack': {'I-AUC': 0.5, 'I-AP': 0.5}, 'hole': {'I-AUC': 1.0, 'I-AP': 1.0}}
  """
  names, scores = np.asarray(defects), np.asarray(scores)
  if names.shape != scores.shape:
    raise ValueError(f'defects has {names.shape[0]} entries, scores has shape {scores.shape}')
  if (masks is None) != (maps is None):
    raise ValueError('masks and maps belong together: give both or neither')
  if (names == normal).all():
    raise ValueError(f'defects holds nothing but {normal!r}: the metrics are undefined')
  table = {}
  for defect in sorted(set(names.tolist()) - {normal}):
    chosen = np.flatnonzero((names == defect) | (names == normal))
    labels = names[chosen] == defect
    row = {
      'I-AUC': auroc(labels, scores[chosen]),
      'I-AP': average_precision(labels, scores[chosen]),
    }
    if masks is not None and maps is not None:
      pixels = evaluate_pixels(
        (masks[i] for i in chosen.tolist()), (maps[i] for i in chosen.tolist())
      )
      row |= {
        'P-AUC': pixels.auroc,
        'P-AP': pixels.average_precision,
        'P-PRO': pixels.aupro,
        'P-F1max': pixels.f1_max,
      }
    table[defect] = row
  return table
