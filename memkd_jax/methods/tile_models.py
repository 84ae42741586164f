"""One model for all tiles, or one for each place of the grid, where parts are aligned.

A model of a place learns from, and scores, the tiles that lie there alone: what is normal at
one place may be a defect at another. Its random numbers are its own, those of its name.
"""

import dataclasses
from pathlib import Path

import numpy as np

from memkd_jax.data.mosaic import Mosaic
from memkd_jax.data.tiling import Tiling
from memkd_jax.files.digest import images_digest
from memkd_jax.methods import kept_parts
from memkd_jax.methods.base import Fitted, Method, Start, Task
from memkd_jax.scoring.tile_params import NAME
from memkd_jax.training import divergence

FOLDER = 'tiles'


def fit(
  method: Method,
  tiling: Tiling,
  task: Task,
  canvases: np.ndarray,
  folder: Path,
  *start: Start,
) -> Fitted:
  """Learns from the tiles of normal images.

  Args:
    method: the method that learns the models.
    tiling: how canvases are cut, and whether each place has a model.
    task: names and seeds the models, each of a place with a name of its own.
    canvases: the canvases of normal images, uint8 [N, H, W, channels], or objects [N].
    folder: the task's folder; what is done of several models lies in tiles/<number>/, and
      their logs stay there.
    start: see `Method.fit`; none where places have models.

  Returns:
    What the method gives; or {'tile_<number>': params} of each place where anything counts,
    and no diagnosis.

  Raises:
    UserError: the images or the config do not allow a training.
    interrupt.Interrupted: a signal came; what was done is saved.
  """
  if not tiling.by_position:
    if task.owners is not None:
      task = task.of_images(Mosaic(tiling, canvases).owners)
    return method.fit(task, tiling.cut_all(canvases), folder, *start)
  owners: dict[int, list[int]] = {}
  places: dict[int, tuple[int, int]] = {}
  for number, index, place in tiling.all_places(canvases):
    places[index] = place
    owners.setdefault(index, []).append(number)
  params = {}
  for index in sorted(owners):
    here = tiling.take(canvases, owners[index], [places[index]] * len(owners[index]))
    home, facts = folder / FOLDER / str(index), {'train_sha256': images_digest(here)}
    found = kept_parts.read(home, facts)
    if found is None:
      number = len(tiling.places(canvases[0].shape))
      name = f'{task.name}, tile {index + 1} of {number}'
      of_tiles = dataclasses.replace(task.of_images(np.array(owners[index])), name=name)
      found = method.fit(of_tiles, here, home).params
      kept_parts.write(home, found, facts)
    params[NAME.format(index)] = found
  return Fitted(params, {})


def diverged(folder: Path, name: str) -> list[str]:
  """Says which trainings of a task ended far above their lowest loss, a sentence each.

  Args:
    folder: the task's folder, in which the logs lie.
    name: the task's name, for the sentences.
  """
  of_places = {int(log.parent.name): log for log in (folder / FOLDER).glob('*/metrics.jsonl')}
  logs = {name: folder / 'metrics.jsonl'}
  logs |= {f'{name}, tile {index + 1}': of_places[index] for index in sorted(of_places)}
  return [said for what, log in logs.items() if (said := divergence.describe(log, what))]


def discard(folder: Path) -> None:
  """Removes the models that `fit` left in a task's folder, and leaves their logs.

  Raises:
    OSError: they cannot be removed.
  """
  kept_parts.forget_all(folder, (f'{FOLDER}/*',))
