"""The tasks of a run: fit, evaluate, result; one after the other, or one a device."""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from memkd_jax import config as base
from memkd_jax import methods, trackers
from memkd_jax.config import flatten
from memkd_jax.configs import best
from memkd_jax.configs import folder as folder_config
from memkd_jax.data.datasets import choose_categories, open_source
from memkd_jax.data.framing import ALPHA
from memkd_jax.data.images import checked
from memkd_jax.data.tiling import describe_size
from memkd_jax.detector import Detector, load
from memkd_jax.errors import UserError, explain, is_disk_full
from memkd_jax.files import atomic
from memkd_jax.files.bucket import is_url
from memkd_jax.methods import joint
from memkd_jax.methods.base import Task
from memkd_jax.methods.warm_start import WarmStart
from memkd_jax.report.environment import describe_environment
from memkd_jax.report.html import write_report
from memkd_jax.report.results import collect, results_table, write_results
from memkd_jax.runtime import hosts, interrupt, onednn
from memkd_jax.teachers import cache
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.teachers.kept_features import KeptFeatures
from memkd_jax.training import lanes
from memkd_jax.workdir import (
  ORIGIN,
  SharedWorkdir,
  Workdir,
  copy_of_models,
  local_folder,
  opened,
)
from memkd_jax.workdir.region import check_roi
from memkd_jax.worker import Worker


def run_config(
  config: ConfigDict,
  workdir: Path | str,
  mode: str = 'train',
  dump_maps: bool = False,
  force: bool = False,
  warm_start: Path | str | None = None,
  kept: KeptFeatures | None = None,
) -> dict[str, Any]:
  """Fits and evaluates a model for each category asked for, and writes the results.

  Finished tasks are skipped, unfinished ones resume. A task that fails is reported, and
  the others still run.

  Args:
    config: the config, as `methods.get_config` gives it.
    workdir: the run's folder, see `workdir`; or a place in a bucket, see `workdir.mirror`.
    mode: 'train', or 'evaluate' to score models that are trained already, perhaps with
      other values of `eval` and `anomaly_map`.
    dump_maps: whether the maps of what is scored are written as TIFF files.
    force: whether the models that are there already are replaced.
    warm_start: the folder of another run, or of one model, from which the trainings go on.
      A run that is resumed finds it recorded.
    kept: the teacher's features of training images, which several runs share.

  Returns:
    What results.json holds: see `results.assemble`, and 'environment'.

  Raises:
    UserError: the config, the weights, the data root or the folder is wrong, no training
      can go on from `warm_start`, or another process is at work in the folder.
    OSError: the disk is full.
  """
  with opened(workdir) as root:
    return _run_config(config, SharedWorkdir(root), mode, dump_maps, force, warm_start, kept)


def _run_config(
  config: ConfigDict,
  folder: SharedWorkdir,
  mode: str,
  dump_maps: bool,
  force: bool,
  warm_start: Path | str | None,
  kept: KeptFeatures | None,
) -> dict[str, Any]:
  """`run_config` in a local folder."""
  started = time.monotonic()
  if mode == 'evaluate':
    folder.check_exists()
  origin = _choose_origin(warm_start, folder, mode)
  config = _choose_dtype(_choose_backbone(config, folder), folder, origin)
  learned = None if origin is None else hosts.on_main(lambda: str(copy_of_models(origin)))
  with hosts.raise_together():
    config = methods.resolve(config)
    lanes.check(config.parallel.axis)
    data = config.data
    source = open_source(data.dataset, data.source, data.dir, data)
    categories = choose_categories(source, config.data.categories)
    trackers.check(config.train.trackers)
    model = config.model
    model.teacher_weights = cache.locate(model.teacher_weights, model.backbone)
    teacher = model.backbone, model.teacher_weights, model.dtype
    extractor = FeatureExtractor(*teacher, kept=kept)
    start = None if learned is None else WarmStart(Path(learned), config, extractor.digest)
    shared = (source, folder, mode, dump_maps, force, start, warm_start is None)
    joined = tuple(categories)
    workers = [
      Worker(config, extractor, devices, *shared, joined)
      for devices in lanes.devices(config.parallel.axis, len(categories) * len(config.seeds))
    ]
    claimed = _with_origins(config, extractor.digest, origin)
  hosts.check_same(
    lambda: [_what_counts(claimed), list(categories), mode, dump_maps, origin is None],
    'configs',
  )
  tasks = _tasks(config, categories)
  if start is not None and warm_start is not None:
    start.check(workers[0].method, tasks)
  with folder.locked():
    own = folder.own
    regions = () if force else own.read_regions()
    hosts.on_main(lambda: check_roi(own.root, own.read_roi(), config.data.roi, regions))
    fields = methods.fields(config.method.name)
    rescored = base.scoring(fields) if mode == 'evaluate' else ()
    folder.claim(claimed, base.resumable(fields), rescored, base.of_older(fields))
    return _run_all(workers, tasks, claimed, started)


def fit(
  images: str | Path | Sequence[str | Path] | Sequence[np.ndarray],
  workdir: str | Path,
  *,
  method: str | None = None,
  force: bool = False,
  warm_start: str | Path | None = None,
  **fields: Any,
) -> Detector:
  """Learns what is normal from good images, as `memkd train --good` does.

  Images that are already learned from in `workdir` are not learned from again.

  Args:
    images: a folder of good images, a text file or CSV that lists them (see
      `data.image_list`), or several paths; or uint8 arrays [H, W, 3] RGB, [H, W, 4] or [H, W]
      grey, each of any size, which are kept in `workdir`/images as PNG files.
    workdir: the run's folder: report.html is there, and the model for `load`.
    method: the method, 'memkd', 'rd', 'knn', ...; the preset configs/best.py where none is
      named.
    force: whether a model that is there already is replaced.
    warm_start: the folder of another run, or of one model, from which the training goes on.
    fields: fields of the config by name: `epochs=20`; `train__batch_size=8` where several
      sections have a field of that name. `memkd train --help` lists them.

  Returns:
    The detector.

  Raises:
    UserError: there is no such field, the images cannot be learned from, or `workdir` holds
      something else.
  """
  config = folder_config.get_config(method) if method else best.get_config()
  given = base.by_short_names(methods.fields(config.method.name), fields)
  config.update_from_flattened_dict(given)
  with opened(workdir) as root:
    listed = _listed(images, root, config.data.roi == ALPHA)
    config.data.dataset, config.data.dir = 'images', str(listed)
    onednn.ask_for_it(config.model.dtype)
    results = run_config(config, root, force=force, warm_start=warm_start)
    for reason in results['failed'].values():
      raise UserError(reason)
    return load(root, *results['categories'])


def _listed(
  images: str | Path | Sequence[str | Path] | Sequence[np.ndarray], workdir: Path, alpha: bool
) -> Path:
  """Where the images are that somebody gave: a folder, or a file that lists them.

  Args:
    images: see `fit`.
    workdir: the run's folder, in which arrays or a list of the paths are kept.
    alpha: whether the alpha of arrays counts.
  """
  if isinstance(images, str | Path):
    return Path(images)
  items = list(images)
  if not items:
    raise UserError('There are no images to learn from; give some.')
  paths = [Path(item) for item in items if isinstance(item, str | Path)]
  if len(paths) == len(items):
    lines = [str(path.expanduser().absolute()) for path in paths]
    listing = workdir / 'images.txt'
    listing.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(listing, '\n'.join(lines) + '\n')
    return listing
  folder = workdir / 'images'
  files = [folder / f'{number:06}.png' for number in range(len(items))]
  for path in set(folder.glob('*.png')) - set(files):  # of an earlier call
    path.unlink()
  for path, item in zip(files, items, strict=True):
    with atomic.atomic_write(path) as temporary:
      _picture(np.asarray(item), alpha).save(temporary)
  return folder


def _picture(array: np.ndarray, alpha: bool) -> Image.Image:
  if alpha and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
    return Image.fromarray(np.ascontiguousarray(array))
  return Image.fromarray(np.ascontiguousarray(checked(array)))


def _run_all(
  workers: Sequence[Worker], tasks: Sequence[Task], claimed: ConfigDict, started: float
) -> dict[str, Any]:
  """All tasks, in a folder that belongs to this run."""
  first = workers[0]
  config, folder = first.config, first.folder
  notes = [*first.extractor.notes, *first.method.notes]
  print(_describe_start(first.method.name, config), flush=True)
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

  if first.replaces:
    joint.discard(folder.own.root)
  lanes.run_all(workers, tasks, run_one)
  if not failed:
    joint.discard(folder.own.root)
  categories = list(dict.fromkeys(task.name for task in tasks))

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


def _tasks(config: ConfigDict, categories: Sequence[str]) -> list[Task]:
  """All seeds of a category in a row, so that its images are decoded once."""
  return [
    Task.of_category(category, seed)
    for category, seed in itertools.product(categories, config.seeds)
  ]


def _describe_start(method: str, config: ConfigDict) -> str:
  all_devices = jax.devices()
  kind = f'{len(all_devices)} x {all_devices[0].device_kind}'
  return f'{method} with {config.model.backbone}, {describe_size(config.data)}, on {kind}.'


def _choose_backbone(config: ConfigDict, folder: SharedWorkdir) -> ConfigDict:
  """Says what `model.backbone=auto` is: that of the run in the folder, if there is one."""
  if config.model.backbone != base.AUTO_BACKBONE:
    return config
  config = config.copy_and_resolve_references()
  there = hosts.on_main(lambda: folder.own.read_of_model('backbone'))
  with hosts.raise_together():
    config.model.backbone = there or base.choose_backbone()
  why = 'as before' if there else 'wide_resnet50_2, that of the paper, is for accelerators'
  if config.model.backbone == 'wide_resnet50_2' and not there:
    why = 'that of the paper; resnet18 is several times as fast'
  print(f'Teacher: {config.model.backbone} ({why}; --config.model.backbone=NAME chooses).')
  return config


def _choose_dtype(config: ConfigDict, folder: SharedWorkdir, origin: str | None) -> ConfigDict:
  """Decides what `model.dtype` is where it is 'auto' or 'default'.

  It is that of the run in the folder, or of --warm-start; said unless it is float32 by default.
  """
  asked = config.model.dtype
  if asked not in (base.AUTO_DTYPE, base.DEFAULT_DTYPE):
    return config
  config = config.copy_and_resolve_references()

  def decide() -> tuple[str, str]:
    there = folder.own.read_of_model('dtype')
    if there is None and origin is not None:
      there = Workdir(origin).read_of_model('dtype')
    if there:
      return there, 'as before'
    if asked == base.AUTO_DTYPE:
      return base.choose_dtype()
    return base.default_dtype(), 'the default on a TPU'

  # All processes take what the first one has measured.
  config.model.dtype, why = hosts.on_main(decide)
  if asked == base.AUTO_DTYPE or config.model.dtype != 'float32':
    print(f'Computing in {config.model.dtype} ({why}; --config.model.dtype=NAME chooses).')
  return config


def _choose_origin(
  warm_start: Path | str | None, folder: SharedWorkdir, mode: str
) -> str | None:
  """Where the run's trainings go on from: what is given, or that of the run in the folder."""
  if warm_start is None:
    return hosts.on_main(folder.own.read_origin)
  if mode == 'evaluate':
    raise UserError(f'--warm-start={warm_start}: an evaluation trains nothing; leave it out.')
  if local_folder(warm_start).resolve() == folder.own.root.resolve():
    raise UserError(
      f'--warm-start={warm_start} is the folder of this run itself; name another --workdir.'
    )
  return str(warm_start if is_url(warm_start) else Path(warm_start).expanduser().absolute())


def _what_counts(claimed: ConfigDict) -> dict[str, Any]:
  """The fields in which processes that run together must agree."""
  fields = flatten(json.loads(claimed.to_json()))
  paths = ('data.dir', 'data.roi', 'data.scratch', 'model.teacher_weights', ORIGIN)
  return {name: value for name, value in fields.items() if name not in paths}


def _with_origins(config: ConfigDict, digest: str, origin: str | None) -> ConfigDict:
  """Adds --warm-start, and the weights' content, which counts where their path does not."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.teacher_sha256 = digest
    if origin is not None:
      config[ORIGIN] = origin
  return config
