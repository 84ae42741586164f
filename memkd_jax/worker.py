"""One task of a run after the other on some devices: fit, calibrate, evaluate, result."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from memkd_jax import methods, trackers
from memkd_jax.config import VALIDATION, flatten
from memkd_jax.data import bit_depth
from memkd_jax.data.benchmarks.counts import count, differences
from memkd_jax.data.datasets import DATASETS, Source
from memkd_jax.data.image_store import scratch_of
from memkd_jax.data.sampling import Plan
from memkd_jax.data.splits import Split
from memkd_jax.data.task_images import describe_changes
from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError, shown
from memkd_jax.evaluate import Scored, Scorer, evaluate
from memkd_jax.files.digest import images_digest
from memkd_jax.files.stored_rows import take
from memkd_jax.methods import cross_calibration, fused, joint, tile_models
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.methods.cross_calibration import cross_scores, score_folds
from memkd_jax.methods.warm_start import WarmStart
from memkd_jax.runtime import hosts, memory
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring import held_out as scoring
from memkd_jax.scoring.calibration import Calibration, choose_threshold
from memkd_jax.scoring.held_out import HeldOut, Part
from memkd_jax.scoring.normalization import Statistics, check_number
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training import metrics_log, shared_checkpoints
from memkd_jax.workdir import SharedWorkdir, TrainedModel
from memkd_jax.workdir.reading import Digests, TaskReader

# What a training that was stopped in between leaves in a task's folder.
_OF_TRAINING = ('checkpoints', tile_models.FOLDER, fused.FOLDER)


class Worker:
  """Runs tasks on its devices, with programs that are compiled once for all of them.

  Attributes:
    config: the run's config, as `methods.resolve` returns it.
    extractor: the frozen teacher, which gives the features.
    method: the method that learns and scores.
    folder: the run's folder, with the models that are there.
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
    categories: tuple[str, ...] = (),
  ):
    """Takes what all tasks of a run share.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      extractor: the frozen teacher, which gives the features.
      devices: the devices that train and score.
      source: the data set that is learned from and scored.
      folder: the run's folder, to which results are written.
      mode: see `run.run_config`.
      dump_maps: see `run.run_config`.
      force: see `run.run_config`.
      warm_start: the models that trainings go on from, if any.
      resumed: whether it is that of the run in the folder, not given anew: then it need not
        be there any more when all trainings have ended.
      categories: the categories of the run, from all of which a joint model learns.

    Raises:
      UserError: teacher and student do not fit together, or the devices do not divide a
        batch.
    """
    self.config, self.extractor, self.folder = config, extractor, folder
    extractor.scratch = scratch_of(config.data, folder.own.root)
    self.method: Method = methods.create(config, extractor, devices)
    self._devices = devices
    self._mode, self._dump_maps = mode, dump_maps
    self._force = force and mode == 'train'
    self._warm_start, self._resumed = warm_start, resumed
    joined = categories if config.train.get('scope', 'category') == joint.JOINT else ()
    which = (config, source, folder, mode, self._force, joined)
    self._reader = TaskReader(*which, sharing=devices.sharing)
    self._joined = joined
    self._pool = functools.lru_cache(maxsize=1)(self._read_pool)

  @property
  def replaces(self) -> bool:
    """Whether models that are there are replaced."""
    return self._force

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
      task: the task that is to be done.
      name: what the task is called on the screen.
    """
    reader = self._reader
    images, digests = reader.listed(task)
    plan = reader.plan(task, len(images.train))
    trains = self._mode == 'train' and not self.folder.has_model(task.name, task.seed)
    if self._force or trains:
      held_or_in_folds = sum(map(len, plan.folds)) or len(plan.held)
      check_number(task.name, self.config.anomaly_map.normalize, held_or_in_folds)
    if self._force:
      self.folder.forget(task.name, task.seed)
    self._check_origin(task, name)
    if self._mode == 'train' and not self._dump_maps and self._is_finished(task, name, digests):
      return
    normal, test, notes = reader.read(task)
    tiles, share = self._scorer.tiling.describe(normal.images), normal.framing.describe_share()
    print(f'{name}: {_describe_images(plan, test)}{tiles}{share}', flush=True)
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
      benchmark=DATASETS[self.config.data.dataset],
      validated=self.config.train.calibration == VALIDATION,
    )
    result['costs'] = {
      'fit_seconds': trained.fit_seconds,
      'fit_memory': trained.fit_memory,
      'model_bytes': sum(array.nbytes for array in jax.tree.leaves(trained.params)),
      'images_per_second': result.pop('images_per_second'),
    }
    # An evaluation may do without the training images, whose digests stay what they were.
    before = self.folder.read_images(task.name, task.seed) or {}
    result['images'] = {
      split: found or before.get(split, {}) for split, found in digests.items()
    }
    number = trained.train_images
    if self._joined:  # of which these are the category's own
      plan = reader.plan(task, len(result['images'].get('train', {})))
      number = len(plan.kept)
    result['counts'] = count(number, test.samples)
    all_counts = result['counts'] | {'train': number + len(plan.held)}
    if self.config.train.calibration == VALIDATION:
      all_counts |= {'train': number, 'validation': len(plan.held)}
    missing = differences(self.config.data.dataset, task.name, all_counts)
    diverged = hosts.on_main(
      lambda: tile_models.diverged(folder, task.name) + fused.diverged(folder, task.name)
    )
    result['notes'] = [
      *images.notes,
      *notes,
      *result['notes'],
      *filter(None, (missing, *diverged)),
    ]
    for note in result['notes']:
      print(f'Note: {note}', flush=True)
    self.folder.write_result(task.name, task.seed, result)
    hosts.on_main(lambda: self._track(folder, result))

  def _track(self, folder: Path, result: dict[str, Any]) -> None:
    """Tells the run's trackers what was found."""
    names, lines = self.config.train.trackers, metrics_log.read(folder / 'metrics.jsonl')
    if names:
      step = lines[-1]['step'] if lines else 0
      trackers.finish(names, folder, step, flatten(self.config.to_dict()), result)

  def _read_pool(self, seed: int) -> joint.Pool:
    """The normal images of all categories, from which a joint model learns."""
    parts = []
    for category in self._joined:
      task = dataclasses.replace(Task.of_category(category, seed), test=())
      normal, _, _ = self._reader.read(task)
      parts.append((normal.images, self._reader.plan(task, len(normal.samples))))
    generator = np.random.default_rng([seed, len(parts)])
    return joint.pool(parts, self.config.train.balance, generator)

  def _learned(self, task: Task, normal: Split, plan: Plan) -> tuple[np.ndarray, int]:
    """The images that the task's model learns from, and how many different ones there are."""
    if not (self._joined and normal.samples):
      everything = len(plan.kept) == len(normal.samples)
      learned = normal.images if everything else take(normal.images, plan.kept)
      return learned, len(plan.kept)
    pool = self._pool(task.seed)
    return pool.images, pool.number

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
      return 'train anew with --force, which replaces the model, or with another --workdir'
    return (
      'train anew with --force, which replaces the model, or go on from this model with '
      f'--warm-start={self.folder.own.root} --workdir=NEW'
    )

  def _is_finished(self, task: Task, name: str, digests: Digests) -> bool:
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
    (images, number), held = self._learned(task, normal, plan), normal.take(plan.held)
    config = bit_depth.in_config(self.config, normal.bits)
    with config.data.ignore_type():
      config.data.depth_range = normal.framing.depth_range or 'auto'
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
        print(f'{task.name} goes on from {shown(start.folder)}.', flush=True)
      # A method that cannot go on from a model need not take one.
      further = () if start is None else (start,)
      # The folds are fitted from scratch: the model of the warm start has seen their images.
      if self._joined:
        fitted, seconds, peak, held_out, statistics = self._fit_jointly(task, normal, plan)
      else:
        held_out, statistics = self._cross_score(task, normal, plan, folder)
        fitted, seconds, peak = self._fit_alone(task, images, folder, *further)
      if held_out is None:
        held_out, statistics = self._score(task, fitted.params, held)
      trained = TrainedModel(
        name=task.name,
        seed=task.seed,
        config=config,
        teacher_sha256=self.extractor.digest,
        params=fitted.params,
        train_images=number,
        train_sha256=images_digest(images),
        diagnosis=fitted.diagnosis,
        calibration=_calibrate(held_out),
        unfolding=fitted.unfolding,
        warm_start=start.sha256 if start else None,
        statistics=statistics,
        region=normal.framing.region,
        fit_seconds=seconds,
        fit_memory=peak,
      )
      self.folder.write_model(trained)
    cross_calibration.discard(folder)
    fused.discard(folder)
    tile_models.discard(folder)
    if not self.config.train.get('keep_checkpoints', False):
      shared_checkpoints.discard(folder / 'checkpoints')
    return trained, held_out

  def _fit_alone(
    self, task: Task, images: np.ndarray, folder: Path, *start: Start
  ) -> tuple[Fitted, float | None, float | None]:
    """A model of the task's own, with the seconds and the bytes that fitting took."""
    resumed = any((folder / name).exists() for name in _OF_TRAINING)
    # Of a process; where several tasks are fitted at once nobody knows whose it is.
    before = memory.reset_peak() if self._devices.sharing == 1 else None
    began = self._fitting_clock()
    fitted = tile_models.fit(self.method, self._scorer.tiling, task, images, folder, *start)
    seconds = self._fitting_clock() - began
    return fitted, None if resumed else seconds, memory.peak_beyond(before)

  def _fit_jointly(
    self, task: Task, normal: Split, plan: Plan
  ) -> tuple[Fitted, float | None, float | None, Scored | None, Statistics | None]:
    """As `_fit_alone` the model of all categories, and what `_cross_score` gives."""
    together = dataclasses.replace(task, name=joint.JOINT, train=self._joined, test=())
    pool, root = self._pool(task.seed), self.folder.own.root
    digest = images_digest(pool.images)
    there = [c for c in self._joined if self.folder.has_model(c, task.seed)]
    for other in () if self._force else there:
      if self.folder.read_model(other, task.seed).train_sha256 != digest:
        raise UserError(
          f'The model of {other} has learned from other images than those of '
          f'{", ".join(self._joined)} now, and would not be that of {task.name}; '
          f'{self._remedies()}.'
        )
    found = joint.fit(self.method, self._scorer.tiling, together, pool, root)
    home = joint.folder_of(root, task.seed)
    folder = self.folder.category(task.name, task.seed)
    hosts.on_main(lambda: joint.copy_logs(home, folder))
    if not plan.folds:
      return found.fitted, found.seconds, found.peak, None, None
    kind = self.config.anomaly_map.normalize
    scored = score_folds(self._scorer, found.folds, normal.images, plan.folds, kind)
    return found.fitted, found.seconds, found.peak, *_scored(normal, scored)

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
