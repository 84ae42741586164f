"""Means and variances of a trained network's BatchNorms over the training images.

Running averages are of the last twenty steps or so, in which the parameters went on changing.
After a short training, or at a high learning rate, a network that normalises with them is not
the one that was trained: its maps can be brightest where nothing is wrong. So they are computed
anew, with the parameters as they are in the end (Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021, section 3.1).
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from memkd_jax.models.layers import BATCH_NORM_MOMENTUM

# An estimate from more batches of 16 images would be no better.
MOST_BATCHES = 200


def mean_of_batches(running: Any, updated: Iterable[Any]) -> Any:
  """The mean over batches of the statistics that each batch has by itself.

  A BatchNorm gives `momentum * running + (1 - momentum) * batch`, from which that of the batch
  is computed.

  Args:
    running: running means and variances, a tree of numpy arrays.
    updated: trees like `running`, at least one: what a pass over each batch made of it.

  Returns:
    A tree of the same shapes and dtypes. What no pass changes is left as it is, bit by bit.
  """
  sums, number = jax.tree.map(lambda x: np.zeros(x.shape, np.float64), running), 0
  for one in updated:
    number += 1
    sums = jax.tree.map(lambda total, x: total + np.asarray(x, np.float64), sums, one)

  def extrapolate(before: np.ndarray, total: np.ndarray) -> np.ndarray:
    moved = total / number - before
    return (before + moved / (1 - BATCH_NORM_MOMENTUM)).astype(before.dtype)

  return jax.tree.map(extrapolate, running, sums)
