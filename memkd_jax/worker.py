"""One task of a run after the other on some devices: fit, calibrate, evaluate, result."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax import methods
from memkd_jax.config import flatten
from memkd_jax.data import bit_depth
from memkd_jax.data.benchmarks.counts import count, differences
from memkd_jax.data.datasets import Source
from memkd_jax.data.sampling import Plan, calibration_plan
from memkd_jax.data.splits import Split, load_split
from memkd_jax.data.task_images import (
  TaskImages,
  describe_changes,
  describe_leak,
  image_digests,
  list_task,
)
from memkd_jax.data.tiling import Tiling, framing_of
from memkd_jax.errors import UserError
from memkd_jax.evaluate import Scored, Scorer, evaluate
from memkd_jax.files.digest import images_digest
from memkd_jax.methods import cross_calibration, tile_models
from memkd_jax.methods.base import Method, Task
from memkd_jax.methods.cross_calibration import cross_scores
from memkd_jax.methods.warm_start import WarmStart
from memkd_jax.runtime import hosts, memory
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring import held_out as scoring
from memkd_jax.scoring.calibration import Calibration, choose_threshold
from memkd_jax.scoring.held_out import HeldOut, Part
from memkd_jax.scoring.normalization import Statistics, check_number
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training import shared_checkpoints
from memkd_jax.workdir import SharedWorkdir, TrainedModel
from memkd_jax.workdir.region import choose_region, region_digest

_Digests = dict[str, dict[str, str]]  # of each split, see `image_digests`


class Worker:
  """Runs tasks on its devices, with programs that are compiled once for all of them.

  Attributes:
    config: the resolved config.
    extractor: the frozen teacher.
    method: learns and scores.
    folder: the run's folder.
  """

  def __init__(
    self,
    config: ConfigDict,
    extractor: FeatureExtractor,
    devices: Devices,
    source: Source,
    folder: SharedWorkdir,
    mode: str,
    dump_maps: bool,
    force: bool,
    warm_start: WarmStart | None = None,
    resumed: bool = False,
  ):
    """Takes what all tasks of a run share.

    Args:
      config: the resolved config.
      extractor: the frozen teacher.
      devices: that train and score.
      source: the data set.
      folder: the run's folder.
      mode: see `run.run_config`.
      dump_maps: see `run.run_config`.
      force: see `run.run_config`.
      warm_start: the models that trainings go on from, if any.
      resumed: whether it is that of the run in the folder, not given anew: then it need not
        be there any more when all trainings have ended.

    Raises:
      UserError: teacher and student do not fit together, or the devices do not divide a
        batch.
    """
    self.config, self.extractor, self.folder = config, extractor, folder
    self.method: Method = methods.create(config, extractor, devices)
    self._devices, self._source = devices, source
    self._mode, self._dump_maps = mode, dump_maps
    self._force = force and mode == 'train'
    self._warm_start, self._resumed = warm_start, resumed
    self._regions: dict[str, np.ndarray] = {}  # by `_region_key`
    self._list = functools.lru_cache(maxsize=1)(self._list_images)
    self._read = functools.lru_cache(maxsize=1)(self._read_images)

  @functools.cached_property
  def _scorer(self) -> Scorer:
    size = self.config.eval.batch_size
    pipeline, tiling = self._pipeline(self.config), Tiling.of_config(self.config.data)
    return Scorer(pipeline, tiling, self.extractor.params, self._devices, size)

  def _has_changed(self, before: ConfigDict) -> bool:
    """Whether the method gives other maps than with a model's config."""
    fields = [field for field in methods.fields(self.config.method.name) if field.scoring]
    old, new = flatten(before.to_dict()), flatten(self.config.to_dict())
    return any(
      field.name.startswith('method.') and old.get(field.name, field.default) != new[field.name]
      for field in fields
    )

  def _pipeline(self, config: ConfigDict) -> Pipeline:
    """What scores with the maps of a config, perhaps one that knew fewer fields of them."""
    return Pipeline(self.extractor, self.method, **config.anomaly_map.to_dict())

  def run(self, task: Task, name: str) -> None:
    """Fits and evaluates one task, and writes its result last of all.

    Args:
      task: what is to be done.
      name: what it is called on the screen.
    """
    region = self._region_key(task)
    images, digests = self._list(task.train, task.test, region)
    options = self.config.train
    how = (options.holdout, options.calibration, options.folds)
    plan = calibration_plan(task.seed, task.name, len(images.train), *how)
    trains = self._mode == 'train' and not self.folder.has_model(task.name, task.seed)
    if self._force or trains:
      held_or_in_folds = sum(map(len, plan.folds)) or len(plan.held)
      check_number(task.name, self.config.anomaly_map.normalize, held_or_in_folds)
    if self._force:
      self.folder.forget(task.name, task.seed)
    self._check_origin(task, name)
    if self._mode == 'train' and not self._dump_maps and self._is_finished(task, name, digests):
      return
    known = self.folder.read_bit_depth(task.name, task.seed)
    normal, test, notes = self._read(task.train, task.test, region, known)
    tiles = self._scorer.tiling.describe(normal.images)
    print(f'{name}: {_describe_images(plan, test)}{tiles}', flush=True)
    trained, held_out = self._trained(task, normal, plan)
    folder = self.folder.category(task.name, task.seed)
    maps_folder = self.folder.own.maps(task.name, task.seed) if self._dump_maps else None
    result = evaluate(
      self._scorer,
      trained.params,
      task.name,
      test,
      folder,
      resolution=self.config.eval.resolution,
      fitted_diagnosis=trained.diagnosis,
      calibration=trained.calibration,
      threshold=choose_threshold(trained.calibration, trained.threshold),
      held_out=held_out,
      maps_folder=maps_folder,
      statistics=trained.statistics,
    )
    result['costs'] = {
      'fit_seconds': trained.fit_seconds,
      'fit_memory': trained.fit_memory,
      'model_bytes': sum(array.nbytes for array in jax.tree.leaves(trained.params)),
      'images_per_second': result.pop('images_per_second'),
    }
    result['counts'] = count(trained.train_images, test.samples)
    # An evaluation may do without the training images, whose digests stay what they were.
    before = self.folder.read_images(task.name, task.seed) or {}
    result['images'] = {
      split: found or before.get(split, {}) for split, found in digests.items()
    }
    all_counts = result['counts'] | {'train': trained.train_images + len(plan.held)}
    missing = differences(self.config.data.dataset, task.name, all_counts)
    diverged = hosts.on_main(lambda: tile_models.diverged(folder, task.name))
    result['notes'] = [
      *images.notes,
      *notes,
      *result['notes'],
      *filter(None, (missing, *diverged)),
    ]
    for note in result['notes']:
      print(f'Note: {note}', flush=True)
    self.folder.write_result(task.name, task.seed, result)

  def _check_origin(self, task: Task, name: str) -> None:
    """Raises UserError where the task's model went on from another one than is given now."""
    if self._warm_start is None or self._resumed:
      return
    if self.folder.has_model(task.name, task.seed):
      origin = self.folder.read_warm_start(task.name, task.seed)
      if origin != self._warm_start.digest(task):
        raise UserError(
          f'{name} went on from another model than --warm-start={self._warm_start.root} has '
          'now; leave the flag out, or choose another --workdir.'
        )

  def _remedies(self) -> str:
    """What there is to do about a model of other images than are there now."""
    of_places = self.config.data.get('tile_models', 'one') != 'one'
    if not self.method.warm_starts or of_places:
      return self._anew()
    return (
      'train anew with --force, which replaces the model, or go on from this model with '
      f'--warm-start={self.folder.own.root} --workdir=NEW'
    )

  @staticmethod
  def _anew() -> str:
    return 'train anew with --force, which replaces the model, or with another --workdir'

  def _is_finished(self, task: Task, name: str, digests: _Digests) -> bool:
    """Whether the task's result is of these images; says what there is to do otherwise.

    Raises:
      UserError: the model was trained on other images.
    """
    old = self.folder.read_images(task.name, task.seed)
    if old is None:
      return False
    changes = {
      split: describe_changes(old[split], digests[split]) for split in old if old[split]
    }
    if changes.get('train'):
      raise UserError(
        f'{name} is finished, but its training images have changed since: {changes["train"]}. '
        f'Either {self._remedies()}.'
      )
    if not changes.get('test'):
      print(f'{name}: finished already', flush=True)
      return True
    print(f'{name}: of the test images {changes["test"]}; they are scored again.', flush=True)
    return False

  def _trained(
    self, task: Task, normal: Split, plan: Plan
  ) -> tuple[TrainedModel, Scored | None]:
    """The task's model and its threshold, from the folder where it is there already.

    Returns:
      The model, and the images that its threshold was made of where they are at hand.
    """
    images, held = normal.images[plan.kept], normal.take(plan.held)
    config = bit_depth.in_config(self.config, normal.bits)
    folder = self.folder.category(task.name, task.seed)
    if self._mode == 'evaluate' or self.folder.has_model(task.name, task.seed):
      trained = self.folder.read_model(task.name, task.seed)
      if len(images) and trained.train_sha256 != images_digest(images):
        raise UserError(
          f'{folder} holds a model of other training images; give it the same ones, '
          f'{self._remedies()}.'
        )
      held_out, statistics = self._score(task, trained.params, held)
      before, other_method = self._pipeline(trained.config), self._has_changed(trained.config)
      if before != self._scorer.pipeline or other_method:
        same = before.normalize == self.config.anomaly_map.normalize and not other_method
        if statistics is None and same:
          statistics = trained.statistics
        self._check_statistics(task, statistics)
        # After an evaluation with other maps a detector gives those, and decides by them.
        if trained.threshold is not None or (trained.calibration and held_out is None):
          print(
            f'Note: the threshold of {task.name} was one of other maps, and is gone; set one '
            f'with memkd calibrate --workdir={self.folder.own.root} --good=FOLDER.',
            flush=True,
          )
        trained = dataclasses.replace(
          trained,
          config=config,
          calibration=_calibrate(held_out),
          threshold=None,
          statistics=statistics,
        )
        self.folder.write_model(trained)
    else:
      start = self._warm_start.start(task) if self._warm_start else None
      if start:
        print(f'{task.name} goes on from {start.folder}.', flush=True)
      # A method that cannot go on from a model need not take one.
      further = () if start is None else (start,)
      # The folds are fitted from scratch: the model of the warm start has seen their images.
      held_out, statistics = self._cross_score(task, normal, plan, folder)
      resumed = any((folder / name).exists() for name in ('checkpoints', tile_models.FOLDER))
      # Of a process; where several tasks are fitted at once nobody knows whose it is.
      before_fit = memory.reset_peak() if self._devices.sharing == 1 else None
      began = self._fitting_clock()
      tiling = self._scorer.tiling
      fitted = tile_models.fit(self.method, tiling, task, images, folder, *further)
      seconds, peak = self._fitting_clock() - began, memory.peak_beyond(before_fit)
      if held_out is None:
        held_out, statistics = self._score(task, fitted.params, held)
      trained = TrainedModel(
        name=task.name,
        seed=task.seed,
        config=config,
        teacher_sha256=self.extractor.digest,
        params=fitted.params,
        train_images=len(images),
        train_sha256=images_digest(images),
        diagnosis=fitted.diagnosis,
        calibration=_calibrate(held_out),
        unfolding=fitted.unfolding,
        warm_start=start.sha256 if start else None,
        statistics=statistics,
        region=normal.framing.region,
        fit_seconds=None if resumed else seconds,
        fit_memory=peak,
      )
      self.folder.write_model(trained)
    cross_calibration.discard(folder)
    tile_models.discard(folder)
    if not self.config.train.get('keep_checkpoints', False):
      shared_checkpoints.discard(folder / 'checkpoints')
    return trained, held_out

  def _fitting_clock(self) -> float:
    """Seconds, among them those that the features that are kept have saved."""
    kept = self.extractor.kept
    return time.monotonic() + (kept.saved_seconds if kept else 0.0)

  def _cross_score(
    self, task: Task, normal: Split, plan: Plan, folder: Path
  ) -> tuple[Scored | None, Statistics | None]:
    """All normal images, each scored by a further model; None without folds."""
    if not plan.folds:
      return None, None
    kind = self.config.anomaly_map.normalize
    return _scored(
      normal,
      cross_scores(self.method, self._scorer, task, normal.images, plan.folds, folder, kind),
    )

  def _score(
    self, task: Task, params: dict[str, Any], held: Split
  ) -> tuple[Scored | None, Statistics | None]:
    """The images that are held out; None where there are none."""
    if not held.samples:
      return None, None
    kind = self.config.anomaly_map.normalize
    check_number(task.name, kind, len(held.samples))
    part = Part(lambda: params, held.images)
    return _scored(held, scoring.score(self._scorer, [part], kind))

  def _check_statistics(self, task: Task, statistics: Statistics | None) -> None:
    """Raises UserError where maps are to be normalised and nothing is known of normal ones."""
    kind = self.config.anomaly_map.normalize
    if kind != 'none' and statistics is None:
      raise UserError(
        f'--config.anomaly_map.normalize={kind}: of {task.name} no normal images are held out '
        'from its model, by whose mean and spread its maps could be normalised; train anew '
        'with --force, which replaces the model, or with another --workdir.'
      )

  def _list_images(
    self, train_names: tuple[str, ...], test_names: tuple[str, ...], region: str
  ) -> tuple[TaskImages, _Digests]:
    """Lists everything, and the digests of all files by split."""
    threads = self.config.data.threads
    # Scoring alone needs them only for a threshold.
    with_train = self._mode == 'train' or self.config.train.holdout > 0
    with hosts.raise_together():
      images = list_task(self._source, train_names if with_train else (), test_names)
      digests = {
        split: image_digests(samples, threads, region)
        for split, samples in (('train', images.train), ('test', images.test))
      }
      if leak := describe_leak(images.train, images.test, threads):
        notes = (*images.notes, f'{", ".join(test_names)}: {leak}')
        images = dataclasses.replace(images, notes=notes)
    hosts.check_same(lambda: [digests], f'images of {", ".join(test_names)}')
    return images, digests

  def _region_key(self, task: Task) -> str:
    """What tells the task's region of interest from others; of a file, `_regions` has it."""
    known = None
    if not self._force and self.folder.has_model(task.name, task.seed):
      known = self.folder.read_model(task.name, task.seed)
    with hosts.raise_together():
      roi = self.config.data.get('roi', '')
      region = choose_region(roi, task.name, task.train, known, self._anew())
    if region is None:
      return str(roi)
    key = region_digest(region)
    self._regions[key] = region
    return key

  def _read_images(
    self,
    train_names: tuple[str, ...],
    test_names: tuple[str, ...],
    region: str,
    known_depth: str | None,
  ) -> tuple[Split, Split, tuple[str, ...]]:
    """Decodes everything, once for all seeds: the normal images, those of the test, notes.

    A broken test image must not come to light only after the training.
    """
    data = self.config.data
    images, _ = self._list(train_names, test_names, region)
    with hosts.raise_together():
      framing = framing_of(data, self._regions.get(region))
      bits = bit_depth.choose(known_depth or data.bit_depth, images.train, data.threads)
      test = load_split(images.test, framing, data.threads, bits)
      normal = load_split(images.train, framing, data.threads, bits)
    return normal, test, tuple(dict.fromkeys((*normal.notes, *test.notes)))


def _describe_images(plan: Plan, test: Split) -> str:
  anomalous = int(test.labels.sum())
  parts = [f'{len(plan.kept)} normal images to learn from', f'{len(plan.held)} held out']
  parts.append(f'{len(test.samples) - anomalous} normal and {anomalous} anomalous to test')
  return ', '.join(parts) + '.'


def _scored(split: Split, found: HeldOut) -> tuple[Scored, Statistics | None]:
  return Scored(split, found.maps, found.scores), found.statistics


def _calibrate(held_out: Scored | None) -> Calibration | None:
  if held_out is None:
    return None
  return Calibration.from_maps(held_out.maps, held_out.scores, held_out.split.images)
