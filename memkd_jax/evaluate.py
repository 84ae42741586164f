"""Scores a test split with a trained model."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax import metrics
from memkd_jax.data.sample import Sample
from memkd_jax.data.splits import Split
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.methods.distillation import System
from memkd_jax.models.memory_use import split_cosines, summarize
from memkd_jax.report.curves import write_curves
from memkd_jax.report.figure import write_figure
from memkd_jax.report.memory_figure import write_memory_figure
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.figures import compute_metrics
from memkd_jax.scoring.resolution import dump_maps, masks_and_maps
from memkd_jax.training.step import TrainState

# matplotlib is not made for threads.
_DRAWING = threading.Lock()


def score_images(
  system: System, state: TrainState, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Anomaly maps and image scores.

  Args:
    system: the compiled steps.
    state: trained, numpy arrays.
    images: uint8 [N, S, S, 3].

  Returns:
    (maps [N, S, S], scores [N]), raw: neither clipped nor normalised.
  """
  maps, scores = _in_batches(system, system.score_step, state, images, 'scoring')
  return maps, scores


def evaluate_category(
  system: System,
  state: TrainState,
  category: str,
  train_images: np.ndarray,
  test: Split,
  folder: Path,
  maps_folder: Path | None = None,
) -> dict[str, float]:
  """Scores a test split, and writes its figure, its curves, and what its memories do.

  All devices of all processes score; the first process computes and writes the rest.

  Args:
    system: the compiled steps.
    state: trained, numpy arrays.
    category: named in errors.
    train_images: uint8 [N, S, S, 3], over which the memories' usage is counted.
    test: the decoded split.
    folder: where figure.png, curves.png, memory.png and memory.json go.
    maps_folder: where the maps go as TIFF files, None for nowhere.

  Returns:
    The figures by their names in the protocol, all in [0, 1]; those of pixels
    only where there are masks.

  Raises:
    UserError: a metric is undefined for this split.
  """
  maps, scores = score_images(system, state, test.images)
  positions = _look_into_memories(system, state, train_images, test.images)

  def report() -> dict[str, float]:
    if maps_folder is not None:
      dump_maps(maps_folder, test, maps)
    pixels = None
    if test.masks is not None:
      pixels = metrics.PixelScores()
      for mask, map_ in masks_and_maps(test, maps, system.config.eval.preset):
        pixels.add(mask, map_)
    figures = compute_metrics(category, test.labels, scores, pixels)
    with _DRAWING:
      write_figure(folder / 'figure.png', test, maps, scores)
      write_curves(folder / 'curves.png', test.labels, scores, pixels)
      if positions is not None:
        _report_memories(*positions, state, test, folder)
    return figures

  return hosts.on_main(report)


def _look_into_memories(
  system: System, state: TrainState, train_images: np.ndarray, test_images: np.ndarray
) -> tuple[Any, Any] | None:
  """What `memory_diagnostics.per_position` says of training and of test images."""
  if not system.memories:
    return None
  run = functools.partial(_in_batches, system, system.diagnose_step, state)
  return run(train_images, 'looking into memories'), run(test_images, 'looking into memories')


def _report_memories(
  on_train: Any, on_test: Any, state: TrainState, test: Split, folder: Path
) -> None:
  """Writes memory.json and memory.png."""
  cosines, summaries = {}, {}
  for name, train in on_train.items():
    cosines[name] = split_cosines(on_test[name]['cosine'], test.labels, test.masks)
    memory = state.params[f'memory_{name}']
    summaries[name] = summarize(train['usage'], train['entropy'], cosines[name], memory)
  atomic.write_json(folder / 'memory.json', summaries)
  log = folder / 'metrics.jsonl'
  write_memory_figure(folder / 'memory.png', summaries, cosines, log)


def _in_batches(
  system: System,
  step: Callable[..., Any],
  state: TrainState,
  images: np.ndarray,
  description: str,
) -> Any:
  """Runs a pmapped step on all images, in batches that are padded and un-padded.

  Args:
    system: the compiled steps.
    step: `(variables, teacher_params, images) -> tree`, one of the system's.
    state: trained, numpy arrays.
    images: uint8 [N, S, S, 3].
    description: for the progress bar.

  Returns:
    The step's tree, with leaves [N, ...].
  """
  devices = system.devices
  batch_size = devices.round_up(system.config.eval.batch_size)
  variables = system.inference_variables(state)
  results = []
  with progress_bar(description, len(images)) as progress:
    for begin in range(0, len(images), batch_size):
      interrupt.raise_if_asked()
      batch = images[begin : begin + batch_size]
      padded = devices.pad_shard(batch, batch_size)
      outputs = step(variables, system.teacher_params, padded)
      unpad = functools.partial(devices.unshard, number=len(batch))
      results.append(jax.tree.map(unpad, outputs))
      progress.update(len(batch))
  return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def check_splits(category: str, train: Sequence[Sample], test: Sequence[Sample]) -> None:
  """Raises UserError where training would see defects, or a metric would be undefined."""
  for sample in train:
    if sample.label:
      raise UserError(
        f'{category}: {sample.image} is among the training images but not normal; move it.'
      )
  labels = {s.label for s in test}
  for label, kind in ((0, 'normal'), (1, 'anomalous')):
    if label not in labels:
      raise UserError(
        f'{category} has no {kind} test images, without which its metrics are undefined; '
        f'add some beside {test[0].image}.'
      )
