"""Scores a test split with a trained model: figures, pictures, maps."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax import metrics
from memkd_jax.data.splits import Split
from memkd_jax.files import atomic
from memkd_jax.models.memory_use import mean_cosines, split_cosines
from memkd_jax.report.curves import write_curves
from memkd_jax.report.figure import write_figure
from memkd_jax.report.memory_figure import write_memory_figure
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.figures import compute_metrics
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.scoring.resolution import dump_maps, masks_and_maps
from memkd_jax.training import metrics_log

# matplotlib is not made for threads.
_DRAWING = threading.Lock()


class Scorer:
  """A pipeline compiled for all devices, for any number of images and for any params.

  Attributes:
    devices: the devices that score.
  """

  def __init__(
    self, pipeline: Pipeline, teacher_params: Any, devices: Devices, batch_size: int
  ):
    """Compiles nothing yet.

    Args:
      pipeline: what is computed.
      teacher_params: the extractor's parameters, numpy arrays.
      devices: the devices that share out every batch.
      batch_size: images of a batch, of all devices together; rounded up to their number.
    """
    self.devices = devices
    self._batch_size = devices.round_up(batch_size)
    self._step: Callable[..., Any] = devices.map(pipeline.score_and_diagnose)
    self._teacher_params = devices.replicate(teacher_params)

  def __call__(
    self, params: Any, images: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Scores images.

    Args:
      params: what the method has learned, numpy arrays.
      images: uint8 [N, S, S, 3].

    Returns:
      (maps [N, S, S], scores [N], diagnosis: a tree of arrays [N, ...]), raw.
    """
    devices, results = self.devices, []
    replicated = devices.replicate(params)
    with progress_bar('scoring', len(images)) as progress:
      for begin in range(0, len(images), self._batch_size):
        interrupt.raise_if_asked()
        batch = images[begin : begin + self._batch_size]
        padded = devices.pad_shard(batch, self._batch_size)
        outputs = self._step(replicated, self._teacher_params, padded)
        unpad = functools.partial(devices.unshard, number=len(batch))
        results.append(jax.tree.map(unpad, outputs))
        progress.update(len(batch))
    maps, scores, diagnosis = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    return maps, scores, diagnosis


def evaluate(
  scorer: Scorer,
  params: Any,
  name: str,
  test: Split,
  folder: Path,
  *,
  resolution: str,
  fitted_diagnosis: dict[str, Any],
  maps_folder: Path | None = None,
) -> dict[str, float]:
  """Scores a test split, and writes its figure, its curves, and what its memories do.

  All devices of all processes score; the main process computes and writes the rest.

  Args:
    scorer: the compiled pipeline.
    params: what the method has learned, numpy arrays.
    name: the task's name, for errors.
    test: the decoded split.
    folder: where figure.png, curves.png, memory.png and memory.json go.
    resolution: 'model' or 'original', see `scoring.resolution.masks_and_maps`.
    fitted_diagnosis: what fitting found, see `methods.base.Fitted`.
    maps_folder: where the maps go as TIFF files, None for nowhere.

  Returns:
    The figures by their names in the protocol, all in [0, 1]; those of pixels
    only where there are masks.

  Raises:
    UserError: a metric is undefined for this split.
  """
  maps, scores, diagnosis = scorer(params, test.images)

  def report() -> dict[str, float]:
    if maps_folder is not None:
      dump_maps(maps_folder, test, maps)
    pixels = None
    if test.masks is not None:
      pixels = metrics.PixelScores()
      for mask, map_ in masks_and_maps(test, maps, resolution):
        pixels.add(mask, map_)
    figures = compute_metrics(name, test.labels, scores, pixels)
    with _DRAWING:
      write_figure(folder / 'figure.png', test, maps, scores)
      write_curves(folder / 'curves.png', test.labels, scores, pixels)
      if diagnosis:
        _report_memories(fitted_diagnosis, diagnosis, test, folder)
    return figures

  return hosts.on_main(report)


def _report_memories(
  on_train: dict[str, Any], on_test: dict[str, Any], test: Split, folder: Path
) -> None:
  """Writes memory.json and memory.png."""
  cosines = {
    name: split_cosines(seen['cosine'], test.labels, test.masks)
    for name, seen in on_test.items()
  }
  summaries = {
    name: used | {'cosine': mean_cosines(cosines[name])} for name, used in on_train.items()
  }
  atomic.write_json(folder / 'memory.json', summaries)
  course = metrics_log.read(folder / 'metrics.jsonl')
  write_memory_figure(folder / 'memory.png', summaries, cosines, course)
