"""Which images make up which batch: pure functions of the seed and the step.

Nothing has to be stored or replayed to resume, and the order does not depend on
the number of devices, nor on which categories ran before.
"""

import dataclasses
import functools
import zlib

import numpy as np

RESAMPLES = ('step', 'epoch', 'never')
CALIBRATIONS = ('holdout', 'folds', 'auto')
# So many held-out images support a false-alarm rate of 10%.
FEWEST_HELD_OUT = 9


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which normal images a model learns from, and which its threshold is made of.

  Attributes:
    kept: int64, ascending indices of the images that the model learns from.
    held: int64, ascending indices of the images that are held out of its training; none where
      there are folds.
    folds: int64 each, ascending indices of the parts of all images. For each part a further
      model learns from the other parts and scores this one; () where there are no such models.
  """

  kept: np.ndarray
  held: np.ndarray
  folds: tuple[np.ndarray, ...]


def number_of_steps(epochs: int, images: int, batch_size: int) -> int:
  """floor(epochs * N / batch): the last images that fill no batch are left out."""
  return epochs * images // batch_size


def batch_indices(
  seed: int, category: str, images: int, batch_size: int, step: int
) -> np.ndarray:
  """The batch of a step, cut from the concatenated permutations of the epochs.

  Args:
    seed: the run's seed, by which each epoch's order is drawn.
    category: the category's name, which is part of the seed.
    images: N, number of training images.
    batch_size: images in a batch; more than N make a batch span several epochs.
    step: number of the step, from 0.

  Returns:
    int64 [batch_size], indices into the training images.
  """
  position = step * batch_size + np.arange(batch_size)
  epoch, place = np.divmod(position, images)
  permutations = {e: _epoch(seed, category, images, int(e)) for e in np.unique(epoch)}
  return np.array([permutations[e][p] for e, p in zip(epoch, place, strict=True)])


# Of many images an order takes longer to draw than a batch to read, and lasts many steps.
@functools.lru_cache(maxsize=4)
def _epoch(seed: int, category: str, images: int, epoch: int) -> np.ndarray:
  order = _generator(seed, category, 'epoch', epoch).permutation(images)
  order.setflags(write=False)
  return order


def exemplar_indices(
  seed: int,
  category: str,
  images: int,
  exemplars: int,
  step: int,
  batch_size: int,
  resample: str = 'step',
  owners: np.ndarray | None = None,
) -> np.ndarray:
  """The normal exemplars of a step (method, section 4).

  With several categories each gives as many, and those that give one more are drawn too.

  Args:
    seed: the run's seed, by which exemplars are drawn.
    category: the category's name, which is part of the seed.
    images: N, number of training images.
    exemplars: number of exemplars; they are drawn without repetition where N is large enough.
    step: number of the step, from 0.
    batch_size: images in a batch of training, by which epochs are counted.
    resample: when they are drawn anew: every 'step', every 'epoch', or 'never'.
    owners: int [N], the index of each image's category, where they are of several.

  Returns:
    int64 [exemplars], indices into the training images.
  """
  draw = {'step': step, 'epoch': step * batch_size // images, 'never': 0}[resample]
  generator = _generator(seed, category, 'exemplars', draw)
  if owners is None:
    return generator.choice(images, exemplars, replace=exemplars > images)
  groups = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
  numbers = np.full(len(groups), exemplars // len(groups))
  numbers[generator.choice(len(groups), exemplars % len(groups), replace=False)] += 1
  return np.concatenate(
    [
      generator.choice(group, number, replace=number > len(group))
      for group, number in zip(groups, numbers.tolist(), strict=True)
    ]
  )


def holdout_indices(
  seed: int, category: str, images: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
  """Which normal images are kept out of the training, to set a threshold with.

  Args:
    seed: the run's seed, by which the held-out images are drawn.
    category: the category's name, which is part of the seed.
    images: N, number of normal images.
    share: part of the images that is held out, in [0, 0.5]; at least one image unless 0.

  Returns:
    Indices of the images to train on and of those held out, both int64 and ascending.
  """
  number = min(max(1, round(share * images)), images - 1) if share and images else 0
  order = _generator(seed, category, 'holdout', 0).permutation(images)
  return np.sort(order[number:]), np.sort(order[:number])


def calibration_plan(
  seed: int, category: str, images: int, share: float, calibration: str, folds: int
) -> Plan:
  """Where the scores come from that a threshold is made of.

  Args:
    seed: the run's seed, by which held-out images and folds are drawn.
    category: the category's name, which is part of the seed.
    images: N, number of normal images.
    share: part of the images that is held out, in [0, 0.5].
    calibration: 'holdout' for that share; 'folds' for further models instead, whatever the
      share; 'auto' for the share, or 9 images where it is fewer and 9 are at most a third of
      all; else folds; and nothing of both where the share is 0.
    folds: number of further models, at most one for each image.

  Returns:
    The plan; without held-out images and folds where one image is all there is.
  """
  kept, held = holdout_indices(seed, category, images, share)
  if calibration == 'auto' and share and len(held) < FEWEST_HELD_OUT:
    if images < 3 * FEWEST_HELD_OUT:
      calibration = 'folds'
    else:
      kept, held = holdout_indices(seed, category, images, FEWEST_HELD_OUT / images)
  if calibration != 'folds':
    return Plan(kept, held, ())
  order = _generator(seed, category, 'folds', 0).permutation(images)
  parts = np.array_split(order, min(folds, images)) if images > 1 else []
  return Plan(np.arange(images), held[:0], tuple(np.sort(part) for part in parts))


def joint_plans(
  seed: int, numbers: dict[str, int], share: float, calibration: str, folds: int
) -> dict[str, Plan]:
  """Where the thresholds come from, see `calibration_plan`: further models for all or none.

  Args:
    seed: the run's seed, by which held-out images and folds are drawn.
    numbers: {category: number of its normal images}.
    share: part of the images that is held out, in [0, 0.5].
    calibration: see `calibration_plan`; 'auto' is 'folds' where any category is too small.
    folds: number of further models.
  """
  found = {
    name: calibration_plan(seed, name, number, share, calibration, folds)
    for name, number in numbers.items()
  }
  if any(plan.folds for plan in found.values()):
    found = {
      name: calibration_plan(seed, name, number, share, 'folds', folds)
      for name, number in numbers.items()
    }
  return found


def image_seeds(seed: int, category: str, step: int, batch_size: int) -> np.ndarray:
  """A seed for each image of a step's batch, of what disturbs it.

  Args:
    seed: the run's seed, by which those of the images are drawn.
    category: the category's name, which is part of the seed.
    step: number of the step, from 0.
    batch_size: number of images in a batch.

  Returns:
    uint32 [batch_size].
  """
  generator = _generator(seed, category, 'disturbances', step)
  return generator.integers(2**32, size=batch_size, dtype=np.uint32)


def category_seed(seed: int, category: str) -> int:
  """A 32-bit seed for a category that no other category's order influences."""
  return int(_generator(seed, category, 'initialisation', 0).integers(2**32))


def _generator(seed: int, category: str, purpose: str, number: int) -> np.random.Generator:
  names = [zlib.crc32(text.encode()) for text in (category, purpose)]
  return np.random.default_rng([seed, *names, int(number)])
