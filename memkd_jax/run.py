"""Trains one category, and runs all the categories of a data set."""

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import RANDOM_TEACHER, flatten, resolve
from memkd_jax.data.benchmarks.counts import count, differences
from memkd_jax.data.datasets import Source, choose_categories, open_source
from memkd_jax.data.sampling import batch_indices, holdout_indices, number_of_steps
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError, explain, is_disk_full
from memkd_jax.evaluate import check_splits, evaluate_category, score_images
from memkd_jax.methods.distillation import System
from memkd_jax.methods.trained import final_state
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.html import write_report
from memkd_jax.report.results import collect, results_table, write_results
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.calibration import Calibration, write_calibration
from memkd_jax.teachers import weights
from memkd_jax.training import divergence, lanes, metrics_log
from memkd_jax.training.metrics_log import MetricsLog
from memkd_jax.training.profiler import StepTrace
from memkd_jax.training.shared_checkpoints import SharedCheckpoints
from memkd_jax.training.step import TrainState
from memkd_jax.training.step_log import StepLogger
from memkd_jax.workdir import Workdir

MODES = ('train', 'evaluate')


def run_config(
  config: ConfigDict, workdir: Path | str, mode: str = 'train', dump_maps: bool = False
) -> dict[str, Any]:
  """Trains and evaluates each category asked for, and writes the results.

  Finished categories are skipped, unfinished ones resume. A category that fails
  is reported, and the others still run.

  Args:
    config: as `config.get_config` gives it.
    workdir: the run's folder, see `workdir`.
    mode: 'train', or 'evaluate' to score existing checkpoints only.
    dump_maps: whether the maps of what is scored are written as TIFF files.

  Returns:
    What results.json holds: see `results.assemble`, and 'environment'.

  Raises:
    UserError: the config, the weights, the data root or the folder is wrong, or
      another process is at work in the folder.
    OSError: the disk is full.
  """
  started = time.monotonic()
  with hosts.raise_together():
    folder = Workdir(workdir)
    config = resolve(config)
    lanes.check(config)
    source = open_source(config.data.dataset, config.data.source, config.data.dir)
    categories = choose_categories(source, config.data.categories)
    if mode == 'evaluate' and hosts.is_main():
      folder.check_exists()
    if config.train.tensorboard:
      metrics_log.check_tensorboard()
    system = System(config)
    claimed = _with_teacher_hash(config)
  hosts.check_same(
    lambda: [_what_counts(claimed), list(categories), mode, dump_maps], 'configs'
  )
  with hosts.held_by_main(folder.locked()):
    with hosts.raise_together():
      if hosts.is_main():
        folder.claim(claimed)
    return _run_all(system, source, categories, folder, claimed, mode, dump_maps, started)


def _run_all(
  system: System,
  source: Source,
  categories: Sequence[str],
  folder: Workdir,
  claimed: ConfigDict,
  mode: str,
  dump_maps: bool,
  started: float,
) -> dict[str, Any]:
  """The loop over categories, in a folder that belongs to this run."""
  config = system.config
  for note in system.notes:
    print(f'Note: {note}', flush=True)

  failed: dict[str, str] = {}

  def run_one(system: System, seed: int, category: str) -> None:
    name = category if len(config.seeds) == 1 else f'{category}, seed {seed}'
    interrupt.raise_if_asked()
    try:
      finished = hosts.on_main(lambda: folder.read_result(category, seed) is not None)
      if mode == 'train' and finished and not dump_maps:
        print(f'{name}: finished already', flush=True)
      else:
        _run_category(system, source, category, seed, folder, mode, dump_maps)
    except hosts.shared_errors() as error:
      if is_disk_full(error):
        raise
      failed.setdefault(category, explain(error))
      print(f'{name} failed: {explain(error)}', flush=True)

  lanes.run_all(system, itertools.product(config.seeds, categories), run_one)

  def conclude() -> dict[str, Any]:
    in_order = {category: failed[category] for category in categories if category in failed}
    results = collect(folder, config, categories, in_order, system.notes)
    results['environment'] = describe_environment(started)
    write_results(folder.root, results)
    write_report(folder, claimed, results)
    print('\n' + results_table(results), flush=True)
    return results

  return hosts.on_main(conclude)


def train_category(
  system: System, category: str, seed: int, images: np.ndarray, folder: Path
) -> tuple[TrainState, dict[str, float]]:
  """Trains to the last step, from the newest checkpoint where there is one.

  The order, which resuming relies on: restore or initialise; then for each step
  gather, step, check and log the terms of the step before (so that the device
  is never waited for), and save where it is due or a signal came. Only states
  whose terms were checked are saved.

  Args:
    system: the compiled steps.
    category: seeds the data order and the initialisation, together with
    seed: of the run.
    images: uint8 [N, S, S, 3], the normal training images.
    folder: where checkpoints/ and metrics.jsonl are.

  Returns:
    The final state, as numpy arrays, and the terms of its last step (empty
    where nothing was left to do).

  Raises:
    UserError: a term was NaN or infinite, or there are checkpoints that are damaged
      or were trained on other images.
    OSError: a checkpoint could not be written.
    interrupt.Interrupted: a signal came; what was done is saved.
  """
  train, devices = system.config.train, system.devices
  batch_size = train.batch_size
  steps = number_of_steps(train.epochs, len(images), batch_size)
  if steps == 0:
    raise UserError(
      f'{category}: {len(images)} images in {train.epochs} epochs fill no batch of '
      f'{batch_size}; raise --config.train.epochs or lower --config.train.batch_size.'
    )
  metadata = {
    'train_images': len(images),
    'train_sha256': _sha256(images),
  }
  host_state = system.init_state(category, seed, images)
  last_terms: dict[str, float] = {}
  with SharedCheckpoints(folder / 'checkpoints') as checkpoints:
    if checkpoints.latest_step() is not None:
      if checkpoints.read_metadata() != metadata:
        raise UserError(
          f'{folder / "checkpoints"} began with other training images; give it the same '
          'ones, or choose another --workdir.'
        )
      host_state = checkpoints.restore(host_state)
    start = int(host_state.step)
    if start == steps:
      return host_state, last_terms
    state = devices.replicate(host_state)
    data = system.training_data(images)
    profiled = train.profile and hosts.is_main()

    def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
      """Which images are the batch of a step, and which its exemplars."""
      return (
        batch_indices(seed, category, len(images), batch_size, step),
        system.exemplar_indices(category, seed, len(images), step),
      )

    with (
      interrupt.deferred() as stop_after,
      MetricsLog(folder, start, train.tensorboard) as log,
      StepTrace(folder, start, profiled, devices.wait) as trace,
      progress_bar(category, steps * batch_size, start * batch_size, leave=True) as progress,
    ):
      report = StepLogger(
        system, category, log, progress, steps, lambda n: images[np.concatenate(draw(n - 1))]
      )
      for step in range(start, steps):
        trace.before_step(step, state)
        report.begin_input()
        indices, exemplars = draw(step)
        state, terms = system.train_step(
          state,
          system.teacher_params,
          data.draw(indices),
          data.draw(exemplars) if system.memories else None,
        )
        done = step + 1
        report.begin(done, terms)
        stopping = stop_after()
        if done % train.checkpoint_steps == 0 or done == steps or stopping:
          last_terms = report.finish()
          host_state = devices.unreplicate(state)
          checkpoints.save(done, host_state, metadata)
        if stopping:
          break
      checkpoints.wait()
  return host_state, last_terms


def _run_category(
  system: System,
  source: Source,
  category: str,
  seed: int,
  folder: Workdir,
  mode: str,
  dump_maps: bool,
) -> None:
  """Trains and evaluates one category with one seed, and writes its result last of all."""
  config = system.config
  # Everything is listed and decoded first: a broken test image must not come to
  # light only after the training.
  size, threads = config.data.image_size, config.data.threads
  with hosts.raise_together():
    test_samples = source.list_samples(category, 'test')
    # Scoring alone needs them only to see how the memories are used, and for a threshold.
    with_train = mode == 'train' or bool(system.memories) or config.train.holdout > 0
    train_samples = source.list_samples(category, 'train') if with_train else []
    check_splits(category, train_samples, test_samples)
    category_folder = folder.category(category, seed)
    test = load_split(test_samples, size, threads)
    images = test.images[:0]
    if with_train:
      images = load_split(train_samples, size, threads).images
    kept, held = holdout_indices(seed, category, len(images), config.train.holdout)
    images, held_out = images[kept], images[held]
  hosts.check_same(
    lambda: [_sha256(array) for array in (test.images, images, held_out)],
    f'images of {category}',
  )
  if mode == 'train':
    with system.training():
      state, _ = train_category(system, category, seed, images, category_folder)
    number = len(images)
  else:
    state, number = final_state(system, category, seed, test.images, category_folder)
  maps_folder = folder.maps(category, seed) if dump_maps else None
  figures = evaluate_category(
    system, state, category, images, test, category_folder, maps_folder
  )
  if len(held_out):
    calibration = Calibration.from_maps(*score_images(system, state, held_out))
    hosts.on_main(lambda: write_calibration(category_folder, calibration))
  counts = count(number, test_samples)
  all_counts = counts | {'train': number + len(held_out)}
  result: dict[str, Any] = {'metrics': figures, 'counts': counts}
  diverged = hosts.on_main(
    lambda: divergence.describe(category_folder / 'metrics.jsonl', category)
  )
  for note in filter(None, (differences(config.data.dataset, category, all_counts), diverged)):
    print(f'Note: {note}', flush=True)
    result.setdefault('notes', []).append(note)
  with hosts.raise_together():
    if hosts.is_main():
      folder.write_result(category, seed, result)


def _sha256(images: np.ndarray) -> str:
  return hashlib.sha256(images.data).hexdigest()


def _what_counts(claimed: ConfigDict) -> dict[str, Any]:
  """The fields in which processes that run together must agree."""
  fields = flatten(json.loads(claimed.to_json()))
  paths = ('data.dir', 'model.teacher_weights')
  return {name: value for name, value in fields.items() if name not in paths}


def _with_teacher_hash(config: ConfigDict) -> ConfigDict:
  """Adds the content of the weights, which counts where their path does not."""
  path = config.model.teacher_weights
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.teacher_sha256 = path if path == RANDOM_TEACHER else weights.sha256(path)
  return config
