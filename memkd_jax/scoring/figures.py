"""The figures of the evaluation protocol, by the names that tables and files use."""

from collections.abc import Mapping, Sequence

import numpy as np

from memkd_jax import metrics
from memkd_jax.errors import UserError

IMAGE_METRICS = ('I-AUC', 'I-AP', 'I-F1max')
# Of some benchmarks alone: over objects with several images, over kinds of defects.
OBJECT_AUC, MEAN_AUC = 'S-AUC', 'I-mAUC'
SATURATED = {'P-sPRO': 0.3, 'P-sPRO5': 0.05}  # limits of the false-positive rate
SEG_F1_3SD = 'SegF1-3sd'
PIXEL_METRICS = ('P-AUC', 'P-AP', 'P-PRO', 'P-PRO5', 'P-PRO1', 'P-F1max', 'SegF1')
METRICS = (
  *IMAGE_METRICS,
  MEAN_AUC,
  OBJECT_AUC,
  *PIXEL_METRICS,
  *SATURATED,
  SEG_F1_3SD,
)


def compute_metrics(
  category: str,
  labels: np.ndarray,
  scores: np.ndarray,
  pixels: metrics.PixelScores | None,
  pixel_threshold: float | None = None,
  smallest: bool = False,
) -> dict[str, float]:
  """The protocol's figures of one category.

  Args:
    category: the category's name, for errors.
    labels: labels of the images [N], 1 for anomalous.
    scores: floating [N], how abnormal each image is.
    pixels: all pixels of the test set, or None where there are no masks.
    pixel_threshold: value of the maps above which SegF1 calls pixels anomalous, chosen on
      normal images; None where there is none, and no SegF1.
    smallest: whether P-PRO1 is among them, for data sets whose defects are a few pixels.

  Raises:
    UserError: a metric is undefined, naming the category and what is missing.
  """
  try:
    figures = {
      'I-AUC': metrics.auroc(labels, scores),
      'I-AP': metrics.average_precision(labels, scores),
      'I-F1max': metrics.f1_max(labels, scores)[0],
    }
    return (
      figures if pixels is None else figures | _of_pixels(pixels, pixel_threshold, smallest)
    )
  except ValueError as error:
    raise UserError(f'{category} cannot be scored: {error}.') from error


def compute_defined(
  category: str,
  labels: np.ndarray,
  scores: np.ndarray,
  pixels: metrics.PixelScores | None,
  pixel_threshold: float | None = None,
  smallest: bool = False,
) -> tuple[dict[str, float], list[str]]:
  """Those of the protocol's figures that the images of one category define.

  Args:
    category: the category's name, for errors and notes.
    labels: labels of the images [N], 1 for anomalous; there may be one class alone, or no
      image.
    scores: floating [N], how abnormal each image is.
    pixels: all pixels whose label is known, both classes among them; None where there are
      no such.
    pixel_threshold: see `compute_metrics`.
    smallest: see `compute_metrics`.

  Returns:
    The figures, and sentences that name those that are left out and say why.

  Raises:
    UserError: a score is not finite.
  """
  kinds = {0: 'normal', 1: 'anomalous'}
  absent = [kind for label, kind in kinds.items() if label not in labels]
  if not absent:
    return compute_metrics(category, labels, scores, pixels, pixel_threshold, smallest), []
  missing = 'no test images' if len(absent) > 1 else f'no {absent[0]} test images'
  if pixels is None:
    return {}, [f'{category} has {missing}, so there are no figures of how well it detects.']
  try:
    figures = _of_pixels(pixels, pixel_threshold, smallest)
  except ValueError as error:
    raise UserError(f'{category} cannot be scored: {error}.') from error
  return figures, [f'{category} has {missing}: no {", ".join(IMAGE_METRICS)}.']


def object_auroc(
  objects: Sequence[str], labels: np.ndarray, scores: np.ndarray
) -> dict[str, float]:
  """The AUROC over objects that have several images each (Real-IAD's sample level).

  An object's score is the highest of its images, and it is anomalous where any of them is.

  Args:
    objects: N names, that of the object which each image shows.
    labels: labels of the images [N], 1 for anomalous.
    scores: floating [N], how abnormal each image is.

  Returns:
    {'S-AUC': in [0, 1]}, nothing where there are no normal or no anomalous objects.
  """
  names, of = np.unique(np.asarray(objects), return_inverse=True)
  highest, anomalous = np.full(len(names), -np.inf), np.zeros(len(names), int)
  np.maximum.at(highest, of, scores)
  np.maximum.at(anomalous, of, labels)
  if len(np.unique(anomalous)) < 2:
    return {}
  return {OBJECT_AUC: metrics.auroc(anomalous, highest)}


def saturated(overlaps: metrics.SaturatedOverlaps) -> dict[str, dict[str, float]]:
  """AU-sPRO of each kind of defect, against the normal images.

  Returns:
    {kind: {'P-sPRO': up to a false-positive rate of 0.3, 'P-sPRO5': up to 0.05}}.
  """
  found = {}
  for kind in overlaps.kinds:
    areas = overlaps.area(SATURATED.values(), kind)
    found[kind] = {name: areas[limit] for name, limit in SATURATED.items()}
  return found


def over_kinds(kinds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """What a benchmark prints as the mean over its kinds of defects (MVTec LOCO).

  Args:
    kinds: the figures of each kind against the normal images.

  Returns:
    {'I-mAUC': mean of their I-AUC, 'P-sPRO', 'P-sPRO5': means of theirs}, of those that all
    kinds have.
  """
  named = {MEAN_AUC: 'I-AUC', **{name: name for name in SATURATED}}
  return {
    name: float(np.mean([figures[of] for figures in kinds.values()]))
    for name, of in named.items()
    if kinds and all(of in figures for figures in kinds.values())
  }


def count_decisions(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, int]:
  """How the images of a test set are decided at a threshold.

  Args:
    labels: labels of the images [N], 1 for anomalous.
    scores: image scores [N]; one above the threshold calls its image anomalous.
    threshold: value of the image score.

  Returns:
    {'caught', 'missed': numbers of anomalous images, 'passed', 'false_alarms': of normal ones}.
  """
  alarm, anomalous = scores > threshold, labels == 1
  return {
    'caught': int(np.sum(alarm & anomalous)),
    'missed': int(np.sum(~alarm & anomalous)),
    'passed': int(np.sum(~alarm & ~anomalous)),
    'false_alarms': int(np.sum(alarm & ~anomalous)),
  }


def _of_pixels(
  pixels: metrics.PixelScores, pixel_threshold: float | None, smallest: bool
) -> dict[str, float]:
  record = pixels.evaluate()
  figures = {
    'P-AUC': record.auroc,
    'P-AP': record.average_precision,
    'P-PRO': record.aupro,
    'P-PRO5': record.aupro_low,
  }
  if smallest:
    figures['P-PRO1'] = record.aupro_lowest
  figures['P-F1max'] = record.f1_max
  if pixel_threshold is not None:
    figures['SegF1'] = pixels.f1_above(pixel_threshold)
  return figures
