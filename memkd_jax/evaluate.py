"""Scores a test split with a trained model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memkd_jax import metrics
from memkd_jax.data.arrays import Split
from memkd_jax.data.sample import Sample
from memkd_jax.errors import UserError
from memkd_jax.map_sizes import dump_maps, masks_and_maps
from memkd_jax.progress import progress_bar
from memkd_jax.protocol import compute_metrics
from memkd_jax.report.curves import write_curves
from memkd_jax.report.figure import write_figure
from memkd_jax.system import System
from memkd_jax.training_step import TrainState


def score_images(
  system: System, state: TrainState, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Anomaly maps and image scores, in batches that are padded and un-padded.

  Args:
    system: the compiled steps.
    state: trained, numpy arrays.
    images: uint8 [N, S, S, 3].

  Returns:
    (maps [N, S, S], scores [N]), raw: neither clipped nor normalised.
  """
  devices = system.devices
  batch_size = devices.round_up(system.config.eval.batch_size)
  variables = devices.replicate({'params': state.params, 'batch_stats': state.batch_stats})
  all_maps, all_scores = [], []
  with progress_bar('scoring', len(images)) as progress:
    for begin in range(0, len(images), batch_size):
      batch = images[begin : begin + batch_size]
      padded = devices.split_padded(batch, batch_size)
      maps, scores = system.score_step(variables, system.teacher_params, padded)
      all_maps.append(devices.join(maps, len(batch)))
      all_scores.append(devices.join(scores, len(batch)))
      progress.update(len(batch))
  return np.concatenate(all_maps), np.concatenate(all_scores)


def evaluate_category(
  system: System,
  state: TrainState,
  category: str,
  test: Split,
  folder: Path,
  maps_folder: Path | None = None,
) -> dict[str, float]:
  """Scores a test split, and writes its figure and its curves.

  Args:
    system: the compiled steps.
    state: trained, numpy arrays.
    category: named in errors.
    test: the decoded split.
    folder: where figure.png and curves.png go.
    maps_folder: where the maps go as TIFF files, None for nowhere.

  Returns:
    The figures by their names in the protocol, all in [0, 1]; those of pixels
    only where there are masks.

  Raises:
    UserError: a metric is undefined for this split.
  """
  maps, scores = score_images(system, state, test.images)
  if maps_folder is not None:
    dump_maps(maps_folder, test, maps)
  pixels = None
  if test.masks is not None:
    pixels = metrics.PixelScores()
    for mask, map_ in masks_and_maps(test, maps, system.config.eval.preset):
      pixels.add(mask, map_)
  figures = compute_metrics(category, test.labels, scores, pixels)
  write_figure(folder / 'figure.png', test, maps, scores)
  write_curves(folder / 'curves.png', test.labels, scores, pixels)
  return figures


def check_test_split(category: str, samples: Sequence[Sample]) -> None:
  """Raises UserError where the image metrics would be undefined."""
  labels = {s.label for s in samples}
  for label, kind in ((0, 'normal'), (1, 'anomalous')):
    if label not in labels:
      raise UserError(
        f'{category} has no {kind} test images, without which its metrics are undefined; '
        f'add some beside {samples[0].image}.'
      )
