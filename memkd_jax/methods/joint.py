"""One model for all categories of a run: it learns from the normal images of all of them.

What a category keeps of it is as of a model of its own: its name, its threshold, its figures.
The model is fitted once for each seed, in joint/<seed>/ of the run's folder, until all
categories have it.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memkd_jax import trackers
from memkd_jax.data.sampling import Plan
from memkd_jax.data.tiling import Tiling
from memkd_jax.files import atomic
from memkd_jax.files.digest import images_digest
from memkd_jax.files.stored_rows import concatenate, take
from memkd_jax.methods import cross_calibration, fused, kept_parts, tile_models
from memkd_jax.methods.base import Fitted, Method, Task
from memkd_jax.runtime import hosts, memory
from memkd_jax.workdir import UNFOLDING

JOINT = 'joint'  # of `train.scope`, the model's name, and its folder
BALANCES = ('image', 'category')
_DIAGNOSIS, _SECONDS, _PEAK = 'diagnosis', 'fit_seconds', 'fit_memory'


@dataclasses.dataclass(frozen=True)
class Pool:
  """The normal images that a joint model learns from.

  Attributes:
    images: the canvases, uint8 [N, H, W, channels] or objects [N], category after category;
      with the balance 'category' some of them several times.
    number: number of the different images among them.
    folds: int [n_k], indices of those images that the further model k does not see.
    owners: int [N], the index of each image's category.
  """

  images: np.ndarray
  number: int
  folds: tuple[np.ndarray, ...]
  owners: np.ndarray


def pool(
  parts: Sequence[tuple[np.ndarray, Plan]], balance: str, rng: np.random.Generator
) -> Pool:
  """Puts the images of all categories together.

  Args:
    parts: (normal images, which of them are learned from) of each category.
    balance: 'image', or 'category': of a category with fewer images than the largest has
      these are taken again, in another order each time, until all have as many.
    rng: the random generator by which that order is drawn.
  """
  most = max(len(plan.kept) for _, plan in parts)
  images: list[np.ndarray] = []
  folds: list[list[np.ndarray]] = [[] for _ in range(max(len(p.folds) for _, p in parts))]
  offset = 0
  for normal, plan in parts:
    order = plan.kept
    if balance == 'category':
      rounds = [rng.permutation(plan.kept) for _ in range(-(-most // len(plan.kept)))]
      order = np.concatenate(rounds)[:most]
    images.append(take(normal, order))
    for k, fold in enumerate(plan.folds):
      folds[k].append(offset + np.flatnonzero(np.isin(order, fold)))
    offset += len(order)
  return Pool(
    concatenate(images),
    sum(len(plan.kept) for _, plan in parts),
    tuple(np.concatenate(fold) for fold in folds),
    np.repeat(np.arange(len(images)), [len(part) for part in images]),
  )


@dataclasses.dataclass(frozen=True)
class JointFit:
  """What a joint model has learned.

  Attributes:
    fitted: what the method's `fit` left.
    seconds: seconds that fitting took; None where it was stopped in between.
    peak: see `TrainedModel.fit_memory`.
    folds: functions that give what each further model has learned.
  """

  fitted: Fitted
  seconds: float | None
  peak: float | None
  folds: tuple[Callable[[], Any], ...]


def fit(method: Method, tiling: Tiling, task: Task, images: Pool, root: Path) -> JointFit:
  """Fits the model and the further ones for the thresholds, or reads those that are there.

  Args:
    method: the method that learns the models.
    tiling: how canvases are cut.
    task: the task of the joint model, with the seed.
    images: normal images of all categories.
    root: the run's folder, in which joint/ lies.

  Raises:
    UserError: the images or the config do not allow a training.
    interrupt.Interrupted: a signal came; what was done is saved.
  """
  home, task = folder_of(root, task.seed), dataclasses.replace(task, owners=images.owners)
  folds: tuple[Callable[[], Any], ...] = ()
  if images.folds:
    folds = cross_calibration.fit_folds(method, tiling, task, images.images, images.folds, home)
  facts = {'train_sha256': images_digest(images.images)}
  params = kept_parts.read(home, facts)
  if params is None:
    began_before = ('checkpoints', tile_models.FOLDER, fused.FOLDER)
    resumed = any((home / name).exists() for name in began_before)
    before, began = memory.reset_peak(), time.monotonic()
    fitted = tile_models.fit(method, tiling, task, images.images, home)
    seconds = None if resumed else time.monotonic() - began
    peak = memory.peak_beyond(before)
    costs = {_SECONDS: seconds, _PEAK: peak}
    further = {UNFOLDING: fitted.unfolding} if fitted.unfolding else {}
    kept = facts | costs | {_DIAGNOSIS: fitted.diagnosis}
    kept_parts.write(home, fitted.params | further, kept)
    return JointFit(fitted, seconds, peak, folds)
  known, unfolding = kept_parts.read_facts(home), params.pop(UNFOLDING, None)
  fitted = Fitted(params, known[_DIAGNOSIS], unfolding)
  return JointFit(fitted, known[_SECONDS], known[_PEAK], folds)


def folder_of(root: Path, seed: int) -> Path:
  """Where a joint model lies until all categories have it."""
  return root / JOINT / str(seed)


def discard(root: Path) -> None:
  """Removes the joint models, which all categories have by now; what trackers wrote stays."""
  folder, stays = root / JOINT, {*trackers.FOLDERS, trackers.IDS}

  def remove() -> None:
    for home in folder.glob('*'):
      for path in home.iterdir():
        if path.is_dir() and path.name not in stays:
          shutil.rmtree(path)
        elif path.name not in stays:
          path.unlink()

  told = hosts.on_main(lambda: any(p.name in stays for p in folder.glob('*/*')))
  if told:
    hosts.on_main(remove)
  else:
    kept_parts.discard(folder)


def copy_logs(home: Path, folder: Path) -> None:
  """Copies the logs of a joint training, but those of its folds, to a category's folder.

  Args:
    home: the folder of the joint model, see `folder_of`.
    folder: the folder of the category's model.
  """
  for log in home.rglob('metrics.jsonl'):
    place = log.relative_to(home)
    if place.parts[0] != cross_calibration.FOLDER:
      atomic.write_text(folder / place, log.read_text())
