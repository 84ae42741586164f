"""Cross-calibration: scores of all normal images where too few can be held out.

Further models learn from all images but a part, and score that part; so each image has a score
of a model that has not seen it, and the model itself learns from all of them. It has seen a few
images more than the further ones have, so new normal images score a little lower with it: what
is promised of false alarms errs to the safe side. For the same reason mean and spread of their
maps, by which maps are normalised, are a little too high for the model itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memkd_jax.data.sampling import FEWEST_HELD_OUT
from memkd_jax.data.tiling import Tiling
from memkd_jax.files.digest import images_digest
from memkd_jax.files.stored_rows import take
from memkd_jax.methods import kept_parts, tile_models
from memkd_jax.methods.base import Method, Task
from memkd_jax.scoring import held_out
from memkd_jax.scoring.held_out import HeldOut, Part, Scorer

FOLDER = 'folds'


def cross_scores(
  method: Method,
  scorer: Scorer,
  task: Task,
  images: np.ndarray,
  folds: Sequence[np.ndarray],
  folder: Path,
  normalize: str = 'none',
) -> HeldOut:
  """Fits a model for each fold without it, and scores it.

  A fold that is done leaves its model in folds/<number>/, so that a run that is started again
  does not repeat it; one that is not resumes as any training does.

  Args:
    method: the method that learns the models.
    scorer: gives maps and scores, an `evaluate.Scorer`.
    task: names and seeds the models, each of which has a name of its own.
    images: all normal images, uint8 [N, H, W, channels], or objects [N].
    folds: int [n_k], indices of the images that are scored together, at least two; each image
      in one.
    folder: the task's folder, in which folds/ lies.
    normalize: see `held_out.score`.

  Returns:
    Maps and scores in the order of the images; statistics of all of them.

  Raises:
    UserError: the images or the config do not allow a training.
    interrupt.Interrupted: a signal came; what was done is saved.
  """
  models = fit_folds(method, scorer.tiling, task, images, folds, folder)
  return score_folds(scorer, models, images, folds, normalize)


def fit_folds(
  method: Method,
  tiling: Tiling,
  task: Task,
  images: np.ndarray,
  folds: Sequence[np.ndarray],
  folder: Path,
) -> tuple[Callable[[], Any], ...]:
  """Fits a model for each fold without it; arguments and errors as `cross_scores`.

  Returns:
    What gives the parameters of each.
  """
  names = [f'{task.name}, fold {k} of {len(folds)}' for k in range(1, len(folds) + 1)]
  homes = [folder / FOLDER / str(k) for k in range(1, len(folds) + 1)]
  facts = [{'train_sha256': images_digest(_without(images, fold))} for fold in folds]
  done = [
    kept_parts.read(home, facts_) is not None for home, facts_ in zip(homes, facts, strict=True)
  ]
  if not all(done):
    print(_announcement(task.name, len(images), len(folds)), flush=True)
  for k, fold in enumerate(folds):
    if not done[k]:
      others = np.delete(np.arange(len(images)), fold)
      of_fold = dataclasses.replace(task.of_images(others), name=names[k])
      fitted = tile_models.fit(method, tiling, of_fold, take(images, others), homes[k])
      kept_parts.write(homes[k], fitted.params, facts[k])
  return tuple(
    functools.partial(kept_parts.read, home, facts_)
    for home, facts_ in zip(homes, facts, strict=True)
  )


def score_folds(
  scorer: Scorer,
  models: Sequence[Callable[[], Any]],
  images: np.ndarray,
  folds: Sequence[np.ndarray],
  normalize: str = 'none',
) -> HeldOut:
  """Scores each fold with the model that has not seen it; see `cross_scores`.

  Args:
    scorer: gives maps and scores, an `evaluate.Scorer`.
    models: what gives the parameters for each fold; there may be more than folds.
    images: all normal images, uint8 [N, H, W, channels], or objects [N].
    folds: int [n_k], indices of the images that are scored together; each image in one.
    normalize: see `held_out.score`.
  """
  parts = [Part(models[k], take(images, fold)) for k, fold in enumerate(folds)]
  found = held_out.score(scorer, parts, normalize)
  order = np.argsort(np.concatenate(folds))
  return found._replace(maps=found.maps[order], scores=found.scores[order])


def discard(folder: Path) -> None:
  """Removes what `cross_scores` left in a task's folder, all or nothing of it.

  Raises:
    OSError: it cannot be removed.
  """
  kept_parts.discard(folder / FOLDER)


def _announcement(name: str, images: int, folds: int) -> str:
  """What the further models cost, before they are trained."""
  few = images < 3 * FEWEST_HELD_OUT
  why = 'are too few to hold some out' if few else 'are all learned from, none is held out'
  return (
    f'{name}: {images} normal images {why}: {folds} further models are trained for the '
    f'threshold (about {folds} times the time)'
  )


def _without(images: np.ndarray, fold: np.ndarray) -> np.ndarray:
  return take(images, np.delete(np.arange(len(images)), fold))
