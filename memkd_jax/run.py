"""The tasks of a run: fit, evaluate, result; one after the other, or one a device."""

import dataclasses
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.config import flatten
from memkd_jax.data.benchmarks.counts import count, differences
from memkd_jax.data.datasets import Source, choose_categories, open_source
from memkd_jax.data.sample import Sample
from memkd_jax.data.sampling import Plan, calibration_plan
from memkd_jax.data.splits import Split, load_split
from memkd_jax.errors import UserError, explain, is_disk_full
from memkd_jax.evaluate import Scorer, evaluate
from memkd_jax.methods import cross_calibration
from memkd_jax.methods.base import Method, Task
from memkd_jax.methods.cross_calibration import cross_scores
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.html import write_report
from memkd_jax.report.results import collect, results_table, write_results
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers import cache
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training import divergence, lanes, metrics_log, shared_checkpoints
from memkd_jax.workdir import SharedWorkdir, TrainedModel


def run_config(
  config: ConfigDict, workdir: Path | str, mode: str = 'train', dump_maps: bool = False
) -> dict[str, Any]:
  """Fits and evaluates a model for each category asked for, and writes the results.

  Finished tasks are skipped, unfinished ones resume. A task that fails is reported, and
  the others still run.

  Args:
    config: as `methods.get_config` gives it.
    workdir: the run's folder, see `workdir`.
    mode: 'train', or 'evaluate' to score models that are trained already, perhaps with
      other values of `eval` and `anomaly_map`.
    dump_maps: whether the maps of what is scored are written as TIFF files.

  Returns:
    What results.json holds: see `results.assemble`, and 'environment'.

  Raises:
    UserError: the config, the weights, the data root or the folder is wrong, or
      another process is at work in the folder.
    OSError: the disk is full.
  """
  started = time.monotonic()
  folder = SharedWorkdir(workdir)
  if mode == 'evaluate':
    folder.check_exists()
  with hosts.raise_together():
    config = methods.resolve(config)
    lanes.check(config.parallel.axis)
    source = open_source(config.data.dataset, config.data.source, config.data.dir)
    categories = choose_categories(source, config.data.categories)
    if 'tensorboard' in config.train and config.train.tensorboard:
      metrics_log.check_tensorboard()
    model = config.model
    model.teacher_weights = cache.locate(model.teacher_weights, model.backbone)
    extractor = FeatureExtractor(model.backbone, model.teacher_weights, model.dtype)
    workers = [
      Worker(config, extractor, devices, source, folder, mode, dump_maps)
      for devices in lanes.devices(config.parallel.axis, len(categories) * len(config.seeds))
    ]
    claimed = _with_teacher_digest(config, extractor.digest)
  hosts.check_same(
    lambda: [_what_counts(claimed), list(categories), mode, dump_maps], 'configs'
  )
  with folder.locked():
    fields = methods.fields(config.method.name)
    rescored = base.scoring(fields) if mode == 'evaluate' else ()
    folder.claim(claimed, base.resumable(fields), rescored)
    return _run_all(workers, categories, claimed, started)


def _run_all(
  workers: 'Sequence[Worker]', categories: Sequence[str], claimed: ConfigDict, started: float
) -> dict[str, Any]:
  """All tasks, in a folder that belongs to this run."""
  first = workers[0]
  config, folder = first.config, first.folder
  notes = [*first.extractor.notes, *first.method.notes]
  for note in notes:
    print(f'Note: {note}', flush=True)
  failed: dict[str, str] = {}

  def run_one(worker: Worker, task: Task) -> None:
    name = task.name if len(config.seeds) == 1 else f'{task.name}, seed {task.seed}'
    interrupt.raise_if_asked()
    try:
      worker.run(task, name)
    except hosts.shared_errors() as error:
      if is_disk_full(error):
        raise
      failed.setdefault(task.name, explain(error))
      print(f'{name} failed: {explain(error)}', flush=True)

  # All seeds of a category in a row, so that its images are decoded once.
  tasks = [
    Task.of_category(category, seed)
    for category, seed in itertools.product(categories, config.seeds)
  ]
  lanes.run_all(workers, tasks, run_one)

  def conclude() -> dict[str, Any]:
    in_order = {category: failed[category] for category in categories if category in failed}
    results = collect(folder.own, config, first.method.name, categories, in_order, notes)
    results['environment'] = describe_environment(started)
    write_results(folder.own.root, results)
    method = config.method.name
    default, fields = methods.get_config(method=method), methods.fields(method)
    write_report(folder.own, claimed, results, default, fields)
    print('\n' + results_table(results), flush=True)
    return results

  return hosts.on_main(conclude)


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
  ):
    """Takes what all tasks of a run share.

    Raises:
      UserError: teacher and student do not fit together, or the devices do not divide a
        batch.
    """
    self.config, self.extractor, self.folder = config, extractor, folder
    self.method: Method = methods.create(config, extractor, devices)
    self._devices, self._source = devices, source
    self._mode, self._dump_maps = mode, dump_maps
    self._read = functools.lru_cache(maxsize=1)(self._read_images)

  @functools.cached_property
  def _scorer(self) -> Scorer:
    pipeline = Pipeline(self.extractor, self.method, **self.config.anomaly_map.to_dict())
    size = self.config.eval.batch_size
    return Scorer(pipeline, self.extractor.params, self._devices, size)

  def run(self, task: Task, name: str) -> None:
    """Fits and evaluates one task, and writes its result last of all.

    Args:
      task: what is to be done.
      name: what it is called on the screen.
    """
    finished = self.folder.is_finished(task.name, task.seed)
    if self._mode == 'train' and finished and not self._dump_maps:
      print(f'{name}: finished already', flush=True)
      return
    train, test = self._read(task.train, task.test)
    options = self.config.train
    how = (options.holdout, options.calibration, options.folds)
    plan = calibration_plan(task.seed, task.name, len(train), *how)
    trained = self._trained(task, train, plan)
    folder = self.folder.category(task.name, task.seed)
    maps_folder = self.folder.own.maps(task.name, task.seed) if self._dump_maps else None
    figures = evaluate(
      self._scorer,
      trained.params,
      task.name,
      test,
      folder,
      resolution=self.config.eval.resolution,
      fitted_diagnosis=trained.diagnosis,
      maps_folder=maps_folder,
    )
    counts = count(trained.train_images, test.samples)
    all_counts = counts | {'train': trained.train_images + len(plan.held)}
    result: dict[str, Any] = {'metrics': figures, 'counts': counts}
    missing = differences(self.config.data.dataset, task.name, all_counts)
    log = folder / 'metrics.jsonl'
    diverged = hosts.on_main(lambda: divergence.describe(log, task.name))
    for note in filter(None, (missing, diverged)):
      print(f'Note: {note}', flush=True)
      result.setdefault('notes', []).append(note)
    self.folder.write_result(task.name, task.seed, result)

  def _trained(self, task: Task, normal: np.ndarray, plan: Plan) -> TrainedModel:
    """The task's model and its threshold, from the folder where it is there already."""
    images, held_out = normal[plan.kept], normal[plan.held]
    folder = self.folder.category(task.name, task.seed)
    if self._mode == 'evaluate' or self.folder.has_model(task.name, task.seed):
      trained = self.folder.read_model(task.name, task.seed)
      if len(images) and trained.train_sha256 != _sha256(images):
        raise UserError(
          f'{folder} holds a model of other training images; give it the same ones, or choose '
          'another --workdir.'
        )
      if trained.config.anomaly_map.to_dict() != self.config.anomaly_map.to_dict():
        # After an evaluation with other maps a detector gives those, and decides by them.
        calibration = self._calibrate(trained.params, held_out)
        if trained.threshold is not None or (trained.calibration and not calibration):
          print(
            f'Note: the threshold of {task.name} was one of other maps, and is gone; set one '
            f'with memkd calibrate --workdir={self.folder.own.root} --good=FOLDER.',
            flush=True,
          )
        trained = dataclasses.replace(
          trained, config=self.config, calibration=calibration, threshold=None
        )
        self.folder.write_model(trained)
    else:
      cross = self._cross_calibrate(task, images, plan, folder)
      fitted = self.method.fit(task, images, folder)
      trained = TrainedModel(
        name=task.name,
        seed=task.seed,
        config=self.config,
        teacher_sha256=self.extractor.digest,
        params=fitted.params,
        train_images=len(images),
        train_sha256=_sha256(images),
        diagnosis=fitted.diagnosis,
        calibration=cross or self._calibrate(fitted.params, held_out),
      )
      self.folder.write_model(trained)
    cross_calibration.discard(folder)
    if not self.config.train.get('keep_checkpoints', False):
      shared_checkpoints.discard(folder / 'checkpoints')
    return trained

  def _cross_calibrate(
    self, task: Task, images: np.ndarray, plan: Plan, folder: Path
  ) -> Calibration | None:
    if not plan.folds:
      return None
    maps = self.config.anomaly_map.to_dict()
    scored = cross_scores(
      self.method, self._scorer, task, images, plan.folds, folder, settings=maps
    )
    return Calibration.from_maps(*scored)

  def _calibrate(self, params: dict[str, Any], held_out: np.ndarray) -> Calibration | None:
    if not len(held_out):
      return None
    maps, scores, _ = self._scorer(params, held_out)
    return Calibration.from_maps(maps, scores)

  def _read_images(
    self, train_names: tuple[str, ...], test_names: tuple[str, ...]
  ) -> tuple[np.ndarray, Split]:
    """Lists and decodes everything, once for all seeds.

    A broken test image must not come to light only after the training.
    """
    data, name = self.config.data, ', '.join(test_names)
    with hosts.raise_together():
      test_samples = self._list(test_names, 'test')
      # Scoring alone needs them only for a threshold.
      with_train = self._mode == 'train' or self.config.train.holdout > 0
      train_samples = self._list(train_names, 'train') if with_train else []
      check_splits(name, train_samples, test_samples)
      test = load_split(test_samples, data.image_size, data.threads)
      images = test.images[:0]
      if with_train:
        images = load_split(train_samples, data.image_size, data.threads).images
    hosts.check_same(lambda: [_sha256(test.images), _sha256(images)], f'images of {name}')
    return images, test

  def _list(self, categories: tuple[str, ...], split: str) -> list[Sample]:
    return [s for c in categories for s in self._source.list_samples(c, split)]


def check_splits(name: str, train: Sequence[Sample], test: Sequence[Sample]) -> None:
  """Raises UserError where training would see defects, or a metric would be undefined."""
  for sample in train:
    if sample.label:
      raise UserError(
        f'{name}: {sample.image} is among the training images but not normal; move it.'
      )
  labels = {s.label for s in test}
  for label, kind in ((0, 'normal'), (1, 'anomalous')):
    if label not in labels:
      raise UserError(
        f'{name} has no {kind} test images, without which its metrics are undefined; '
        f'add some beside {test[0].image}.'
      )


def _sha256(images: np.ndarray) -> str:
  return hashlib.sha256(images.data).hexdigest()


def _what_counts(claimed: ConfigDict) -> dict[str, Any]:
  """The fields in which processes that run together must agree."""
  fields = flatten(json.loads(claimed.to_json()))
  paths = ('data.dir', 'model.teacher_weights')
  return {name: value for name, value in fields.items() if name not in paths}


def _with_teacher_digest(config: ConfigDict, digest: str) -> ConfigDict:
  """Adds the content of the weights, which counts where their path does not."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.teacher_sha256 = digest
  return config
