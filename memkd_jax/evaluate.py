"""Scores a test split with a trained model: figures, pictures, maps."""

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from memkd_jax import metrics
from memkd_jax.data.framing import seen_of
from memkd_jax.data.mosaic import Mosaic
from memkd_jax.data.sample import Dataset
from memkd_jax.data.splits import Split
from memkd_jax.data.tiling import Tiling
from memkd_jax.files import atomic
from memkd_jax.models.memory_use import mean_cosines, split_cosines
from memkd_jax.report import cases
from memkd_jax.report.curves import write_curves
from memkd_jax.report.figure import choose_cases, choose_highest, write_figure
from memkd_jax.report.memory_figure import write_memory_figure
from memkd_jax.report.scores import ScoredImage, write_scores
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.calibration import Calibration, Threshold, pixel_threshold
from memkd_jax.scoring.figures import count_decisions
from memkd_jax.scoring.normalization import Statistics
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.scoring.resolution import dump_maps
from memkd_jax.scoring.split_figures import figures_of
from memkd_jax.scoring.tile_params import params_of
from memkd_jax.training import metrics_log

# matplotlib is not made for threads.
_DRAWING = threading.Lock()


class Scorer:
  """A pipeline compiled for all devices, for any number of images and for any params.

  Attributes:
    pipeline: the computation, from images to maps and scores.
    tiling: how canvases become the tiles that are scored.
    devices: the devices that score.
    images_per_second: speed of the last call, without its first batch, which may have been
      compiled; None where it had no other.
  """

  def __init__(
    self,
    pipeline: Pipeline,
    tiling: Tiling,
    teacher_params: Any,
    devices: Devices,
    batch_size: int,
  ):
    """Compiles nothing yet.

    Args:
      pipeline: the computation, from images to maps and scores.
      tiling: how canvases become the tiles that are scored.
      teacher_params: the extractor's parameters, numpy arrays.
      devices: the devices that share out every batch.
      batch_size: tiles of a batch, of all devices together; rounded up to their number.
    """
    self.pipeline, self.tiling, self.devices = pipeline, tiling, devices
    self.images_per_second: float | None = None
    self._batch_size = devices.round_up(batch_size)
    self._step: Callable[..., Any] = devices.map(pipeline.score_and_diagnose)
    self._maps_step: Callable[..., Any] = devices.map(pipeline.stage_maps)
    self._teacher_params = devices.replicate(teacher_params)

  def __call__(
    self, params: Any, images: np.ndarray, statistics: Statistics | None = None
  ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Scores images.

    Args:
      params: what the method has learned, numpy arrays.
      images: the canvases, uint8 [N, H, W, channels], or objects [N] that are [H, W, channels].
      statistics: mean and spread of normal images, where maps are normalised: those of the
        model, or those of each image.

    Returns:
      (maps [N, H, W] or objects [N], scores [N], diagnosis: a tree of arrays [T, ...] of all
      tiles, empty without images).
    """
    mosaic = Mosaic(self.tiling, images)
    diagnoses = []
    batches = mosaic.batches(self._batch_size)
    found = self._over(self._step, params, batches, len(mosaic), statistics)
    for begin, (maps, scores, diagnosis) in found:
      mosaic.add(begin, maps, scores)
      diagnoses.append(diagnosis)
    if self.images_per_second is not None:  # it was of tiles
      self.images_per_second *= len(images) / len(mosaic)
    return mosaic.maps, mosaic.scores, _joined(diagnoses) if diagnoses else {}

  def stage_maps(self, params: Any, images: np.ndarray) -> dict[int, np.ndarray]:
    """What the method gives before anything is done with it: {k: [N, H_k, W_k]}, N > 0."""
    size = self._batch_size
    batches = ((at, images[at : at + size], 0) for at in range(0, len(images), size))
    found = self._over(self._maps_step, params, batches, len(images))
    maps: dict[int, np.ndarray] = _joined([of_batch for _, of_batch in found])
    return maps

  def _over(
    self,
    step: Callable[..., Any],
    params: Any,
    batches: Iterable[tuple[int, np.ndarray, int]],
    number: int,
    statistics: Statistics | None = None,
  ) -> Iterator[tuple[int, Any]]:
    """Calls a step batch by batch.

    Args:
      step: the step to call, compiled for all devices.
      params: what the method has learned, numpy arrays.
      batches: where a batch begins, its tiles uint8 [n, height, width, channels], and their
        place of the grid, as `Mosaic.batches` gives them.
      number: number of all tiles together.
      statistics: mean and spread of normal images, where maps are normalised.

    Yields:
      (where a batch begins, a tree of arrays [n, ...]).
    """
    devices = self.devices
    self.images_per_second = None
    replicated: tuple[int, Any] | None = None
    warm, first = time.monotonic(), 0
    unit = 'img' if self.tiling.is_whole else 'tile'
    with progress_bar('scoring', number, unit=unit) as progress:
      for begin, batch, position in batches:
        interrupt.raise_if_asked()
        if replicated is None or replicated[0] != position:
          of_place = params_of(params, self.tiling, position)
          replicated = position, devices.replicate(of_place)
        padded = devices.pad_shard(batch, self._batch_size)
        usual = self._of_batch(statistics, slice(begin, begin + len(batch)))
        outputs = step(replicated[1], self._teacher_params, padded, *usual)
        unpad = functools.partial(devices.unshard, number=len(batch))
        yield begin, jax.tree.map(unpad, outputs)
        progress.update(len(batch))
        if begin == 0:
          warm, first = time.monotonic(), len(batch)
    if number > first:
      self.images_per_second = (number - first) / (time.monotonic() - warm)

  def _of_batch(self, statistics: Statistics | None, rows: slice) -> tuple[Statistics, ...]:
    """The statistics of a batch's images on the devices, if there are any."""
    if statistics is None:
      return ()

    def share_out(values: np.ndarray) -> Any:
      if len(values) == 1:
        return self.devices.replicate(values)
      return self.devices.pad_shard(values[rows], self._batch_size)

    return (jax.tree.map(share_out, statistics),)


def _joined(parts: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


class Scored(NamedTuple):
  """Normal images that the model has not learned from, with what it makes of them.

  Attributes:
    split: the decoded images, n of them.
    maps: raw anomaly maps, floating [n, H, W].
    scores: raw image scores, floating [n].
  """

  split: Split
  maps: np.ndarray
  scores: np.ndarray


def evaluate(
  scorer: Scorer,
  params: Any,
  name: str,
  test: Split,
  folder: Path,
  *,
  resolution: str,
  fitted_diagnosis: dict[str, Any],
  calibration: Calibration | None = None,
  threshold: Threshold | None = None,
  held_out: Scored | None = None,
  maps_folder: Path | None = None,
  statistics: Statistics | None = None,
  benchmark: Dataset | None = None,
  validated: bool = False,
) -> dict[str, Any]:
  """Scores a test split, and writes its figure, its curves, and what its memories do.

  What the images do not define is left out by name. All devices of all processes score; the
  main process computes and writes the rest.

  Args:
    scorer: the compiled pipeline that scores the images.
    params: what the method has learned, numpy arrays.
    name: the task's name, for errors.
    test: the decoded split, perhaps without any image.
    folder: where figure.png, held_out.png, curves.png, memory.png, memory.json, scores.csv and
      cases/ go.
    resolution: 'model' or 'original', see `scoring.resolution.masks_and_maps`.
    fitted_diagnosis: what fitting found, see `methods.base.Fitted`.
    calibration: what held-out images of the model look like; None where it has none, and no
      image a p-value.
    threshold: the threshold by which images are decided; None where they are not.
    held_out: the normal images that the threshold was made of, where they are at hand.
    maps_folder: where the maps go as TIFF files, None for nowhere.
    statistics: mean and spread of normal images, where maps are normalised.
    benchmark: the data set, for the figures of some benchmarks alone; None for those of all.
    validated: whether `held_out` are the data set's own validation images.

  Returns:
    {'metrics': the figures by their names in the protocol, all in [0, 1], 'defects': {kind of
    defect: its figures against all normal images}, 'notes': sentences on those that are left
    out, 'images_per_second': see `Scorer`, and, where there is a threshold and a test image,
    'decisions': see `figures.count_decisions`, with the 'threshold' itself}.

  Raises:
    UserError: a score is not finite.
  """
  maps, scores, diagnosis = scorer(params, test.images, statistics)
  speed = scorer.images_per_second

  def report() -> dict[str, Any]:
    if maps_folder is not None:
      dump_maps(maps_folder, test, maps)
    above = pixel_threshold(calibration, threshold)
    held_maps = (held_out.split, held_out.maps) if held_out and validated else None
    found = figures_of(name, test, maps, scores, resolution, above, held_maps, benchmark)
    result: dict[str, Any] = {
      'metrics': found.metrics,
      'defects': found.defects,
      'notes': found.notes,
      'images_per_second': speed,
    }
    if threshold is not None and len(scores):
      counts = count_decisions(test.labels, scores, threshold.value)
      result['decisions'] = {'threshold': threshold.value} | counts
    _write_scores(folder / 'scores.csv', test, scores, held_out, calibration, threshold)
    with _DRAWING:
      inputs = test.framing.inputs
      several = len(inputs) > 1 and scorer.tiling.is_whole and diagnosis
      parts = {name: diagnosis[name] for name in inputs} if several else {}
      _draw(folder, test, maps, scores, found.pixels, held_out, threshold, parts)
      cases.write_cases(folder / cases.FOLDER, test, maps)
      if diagnosis and fitted_diagnosis:
        _report_memories(fitted_diagnosis, diagnosis, test, scorer.tiling, folder)
    return result

  return hosts.on_main(report)


def _write_scores(
  path: Path,
  test: Split,
  scores: np.ndarray,
  held_out: Scored | None,
  calibration: Calibration | None,
  threshold: Threshold | None,
) -> None:
  rows: list[ScoredImage] = []
  parts = [('test', test, scores)]
  if held_out is not None:
    parts.append(('held out', held_out.split, held_out.scores))
  for part, split, values in parts:
    p_values = None if calibration is None else calibration.p_values(values)
    for i, sample in enumerate(split.samples):
      decision = None
      if threshold is not None:
        decision = 'anomalous' if values[i] > threshold.value else 'normal'
      p_value = None if p_values is None else float(p_values[i])
      rows.append(
        ScoredImage(sample.id, part, sample.defect, float(values[i]), p_value, decision)
      )
  write_scores(path, rows)


def _draw(
  folder: Path,
  test: Split,
  maps: np.ndarray,
  scores: np.ndarray,
  pixels: metrics.PixelScores | None,
  held_out: Scored | None,
  threshold: Threshold | None,
  parts: dict[str, np.ndarray],
) -> None:
  """Writes figure.png, held_out.png and curves.png, those for which there are images."""
  if len(test.samples):
    groups = choose_cases(test.labels, scores)
    write_figure(folder / 'figure.png', test, maps, scores, groups, parts)
  if held_out is not None:
    write_figure(folder / 'held_out.png', *held_out, choose_highest(held_out.scores))
  held_scores = None if held_out is None else held_out.scores
  if len(test.samples) or held_out is not None:
    curves = (test.labels, scores, pixels, held_scores, threshold)
    write_curves(folder / 'curves.png', *curves)


def _report_memories(
  on_train: dict[str, Any], on_test: dict[str, Any], test: Split, tiling: Tiling, folder: Path
) -> None:
  """Writes memory.json and memory.png."""
  labels = test.labels[Mosaic(tiling, test.images).owners]
  masks = None if test.masks is None else tiling.cut_all(test.images, test.masks)
  tiles = tiling.cut_all(test.images)
  seen = None
  if tiles.shape[-1] != 3:
    seen = np.stack([np.asarray(seen_of(tile)) for tile in tiles])
  if seen is not None and masks is not None:
    masks = masks & seen
  cosines = {
    name: split_cosines(found['cosine'], labels, masks, seen) for name, found in on_test.items()
  }
  summaries = {
    name: used | {'cosine': mean_cosines(cosines[name])} for name, used in on_train.items()
  }
  atomic.write_json(folder / 'memory.json', summaries)
  course = metrics_log.read(folder / 'metrics.jsonl')
  write_memory_figure(folder / 'memory.png', summaries, cosines, course)
