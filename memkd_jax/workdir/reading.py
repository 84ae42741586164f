"""The images of a run's tasks, as their models saw them: their bit depth, their region."""

import dataclasses
import functools
from typing import Literal, Protocol

import numpy as np
from ml_collections import ConfigDict

from memkd_jax.config import VALIDATION
from memkd_jax.data import bit_depth, image_store
from memkd_jax.data.datasets import DATASETS, Source
from memkd_jax.data.framing import ALPHA, Framing
from memkd_jax.data.modalities import choose_depth_range
from memkd_jax.data.sample import Sample
from memkd_jax.data.sampling import Plan, calibration_plan, joint_plans
from memkd_jax.data.splits import Split, load_split
from memkd_jax.data.task_images import (
  TaskImages,
  describe_changes,
  describe_leak,
  image_digests,
  list_task,
)
from memkd_jax.data.tiling import framing_of
from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts
from memkd_jax.runtime.memory import free_host_memory
from memkd_jax.workdir.model import Ranges
from memkd_jax.workdir.region import choose_region, region_digest
from memkd_jax.workdir.shared import SharedWorkdir

Digests = dict[str, dict[str, str]]  # of each split, see `image_digests`
Names = tuple[str, ...]


class Task(Protocol):
  """What is to be done; see `methods.base.Task`."""

  @property
  def name(self) -> str:
    """Of the task."""

  @property
  def seed(self) -> int:
    """Of the run."""

  @property
  def train(self) -> Names:
    """Categories whose normal images are learned from."""

  @property
  def test(self) -> Names:
    """Categories that are scored."""


class TaskReader:
  """Lists and decodes what a task learns from and is scored on; what was last, once."""

  def __init__(
    self,
    config: ConfigDict,
    source: Source,
    folder: SharedWorkdir,
    mode: str,
    force: bool,
    joined: Names = (),
    sharing: int = 1,
  ):
    """Reads nothing yet.

    Args:
      config: the run's config, as `methods.resolve` returns it.
      source: the data set that is read.
      folder: the run's folder, with the models that are there.
      mode: see `run.run_config`.
      force: whether models that are there will be replaced.
      joined: the categories from all of which one model learns; none where each has its own.
      sharing: how many readers share this host's memory, and the room on its disk.

    Raises:
      UserError: the data set has no validation images, and thresholds were to come from them.
    """
    self._config, self._source, self._folder = config, source, folder
    self._mode, self._force, self._joined = mode, force, joined
    self._sharing = sharing
    self._validates = config.train.calibration == VALIDATION
    if self._validates and not DATASETS[config.data.dataset].has_validation:
      those = ', '.join(name for name, known in DATASETS.items() if known.has_validation)
      raise UserError(
        f'--config.train.calibration={VALIDATION}: {config.data.dataset} has no images for it; '
        f'these have: {those}. Leave it out, or take holdout or folds.'
      )
    self._joint_place: Literal['host', 'disk'] | None = (
      None  # that of the first of the joined categories
    )
    self._scratch = image_store.scratch_of(config.data, folder.own.root)
    self._regions: dict[str, np.ndarray] = {}  # by `_region_key`
    self._list = functools.lru_cache(maxsize=1)(self._list_images)
    self._read = functools.lru_cache(maxsize=1)(self._read_images)
    self._last: tuple[Names, Names, str, Ranges | None] | None = None

  def listed(self, task: Task) -> tuple[TaskImages, Digests]:
    """Lists everything, and the digests of all files by split.

    Raises:
      UserError: images are missing, the training would see defects, or the task's model has
        another region of interest.
    """
    return self._list(task.train, task.test, self._region_key(task))

  def read(self, task: Task) -> tuple[Split, Split, Names]:
    """Decodes everything, once for all seeds: the normal images, those of the test, notes.

    A broken test image must not come to light only after the training.

    Raises:
      UserError: see `listed`; or files are broken.
    """
    known = None if self._force else self._folder.read_ranges(task.name, task.seed)
    which = (task.train, task.test, self._region_key(task), known)
    if which != self._last:  # before others take memory, or room on the disk
      self._read.cache_clear()
      self._last = which
    return self._read(*which)

  def plan(self, task: Task, number: int) -> Plan:
    """Which of a task's normal images it learns from, and where its threshold comes from.

    Args:
      task: the task that is to be done.
      number: number of its normal images, 0 where they are not looked at.
    """
    options = self._config.train
    if self._validates and number:
      held = self._set_apart(task.train)
      return Plan(np.arange(number - held), np.arange(number - held, number), ())
    how = (options.holdout, options.calibration, options.folds)
    if not (self._joined and number):
      return calibration_plan(task.seed, task.name, number, *how)
    return joint_plans(task.seed, self._numbers, *how)[task.name]

  def _set_apart(self, categories: Names) -> int:
    """How many normal images the publisher has for thresholds."""
    return sum(len(self._source.list_samples(c, 'validation')) for c in categories)

  @functools.cached_property
  def _samples_of_all(self) -> list[Sample]:
    """The normal images of the categories from which one model learns."""
    return [s for c in self._joined for s in self._source.list_samples(c, 'train')]

  @functools.cached_property
  def _numbers(self) -> dict[str, int]:
    """Of the normal images of the categories from which one model learns."""
    own = {c: len(self._source.list_samples(c, 'train')) for c in self._joined}
    return {c: n + (self._set_apart((c,)) if self._validates else 0) for c, n in own.items()}

  def _list_images(
    self, train_names: Names, test_names: Names, region: str
  ) -> tuple[TaskImages, Digests]:
    threads = self._config.data.threads
    # Scoring alone needs them only for a threshold.
    with_train = self._mode == 'train' or self._config.train.holdout > 0 or self._validates
    with hosts.raise_together():
      images = list_task(
        self._source, train_names if with_train else (), test_names, self._validates
      )
      digests = {
        split: image_digests(samples, threads, region)
        for split, samples in (('train', images.train), ('test', images.test))
      }
      if leak := describe_leak(images.train, images.test, threads):
        notes = (*images.notes, f'{", ".join(test_names)}: {leak}')
        images = dataclasses.replace(images, notes=notes)
      held = self._set_apart(train_names) if self._validates and images.train else 0
      learned = images.train[: len(images.train) - held]
      apart = images.train[len(learned) :]
      if leak := describe_leak(learned, apart, threads, 'validation'):
        notes = (*images.notes, f'{", ".join(train_names)}: {leak}')
        images = dataclasses.replace(images, notes=notes)
    what = f'images of {", ".join(test_names or train_names)}'
    hosts.check_same(lambda: digests, what, _compare)
    return images, digests

  def _region_key(self, task: Task) -> str:
    """What tells the task's region of interest from others; of a file, `_regions` has it."""
    roi = self._config.data.get('roi', '')
    if roi in ('', ALPHA):
      return str(roi)
    known = None
    if not self._force and self._folder.has_model(task.name, task.seed):
      known = self._folder.read_model(task.name, task.seed)
    with hosts.raise_together():
      region = choose_region(roi, task.name, task.train, known)
    key = region_digest(region)
    self._regions[key] = region
    return key

  def _read_images(
    self, train_names: Names, test_names: Names, region: str, known: Ranges | None
  ) -> tuple[Split, Split, Names]:
    data = self._config.data
    images, _ = self._list(train_names, test_names, region)
    with hosts.raise_together():
      framing = framing_of(data, self._regions.get(region))
      found = (data.bit_depth, data.depth_range) if known is None else known
      bits = bit_depth.choose(found[0], images.train, data.threads)
      # A joint model sees the depth of all categories in one way.
      of_all = self._samples_of_all if self._joined and found[1] == 'auto' else images.train
      depths = choose_depth_range(data.inputs, found[1], of_all, data.threads)
      framing = dataclasses.replace(framing, depth_range=depths)
    scratch = self._place(framing, images)
    with hosts.raise_together():
      test = load_split(images.test, framing, data.threads, bits, scratch)
      normal = load_split(images.train, framing, data.threads, bits, scratch)
    return normal, test, tuple(dict.fromkeys((*normal.notes, *test.notes)))

  def _place(self, framing: Framing, images: TaskImages) -> image_store.Scratch | None:
    """Where the images are kept, in all processes alike; None for memory.

    Those of all categories from which one model learns are kept in one way.
    """
    wanted = self._config.data.get('memory', 'host')
    own = len(images.train) + len(images.test)
    # What other categories have taken by now must not speak against the later ones.
    number = own if not self._joined else sum(self._numbers.values()) + len(images.test)
    free, room = free_host_memory() // self._sharing, 0
    with hosts.raise_together():
      if wanted != 'host':
        room = self._scratch.room() // self._sharing
    free, room = (min(found) for found in zip(*hosts.exchange([free, room]), strict=True))
    with hosts.raise_together():
      place = image_store.choose_place(wanted, framing, number, free, room)
      if self._joined and self._joint_place is not None:
        place = self._joint_place
      self._joint_place = place
      if place == 'disk':  # before the first of them is decoded
        size = image_store.bytes_of(framing, own)
        self._scratch.check(size, f'{own:,} decoded images', 'data.memory=disk')
    if place == 'host':
      return None
    print(f'Note: decoded images are kept on the disk, in {self._scratch.folder}.', flush=True)
    return self._scratch


def _compare(ours: Digests, theirs: Digests) -> str:
  """In which images another process's digests differ."""
  changes = (describe_changes(ours[split], theirs[split]) for split in ours)
  return ', '.join(filter(None, changes))
