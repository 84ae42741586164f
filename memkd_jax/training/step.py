"""One step of gradient descent as a pure function (method, section 6)."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import optax

# (params, batch_stats, *inputs) -> (loss, (logged terms, new batch_stats))
LossFunction = Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]


@flax.struct.dataclass
class TrainState:
  """Everything that changes during training.

  The order of the data and the draw of the exemplars are functions of the seed
  and the step (`data.sampling`), so a state resumes them too.

  Attributes:
    step: number of steps taken, an int32 scalar.
    params: the trained parameters, a tree of arrays.
    batch_stats: running means and variances.
    opt_state: the optimizer's state, a tree of arrays.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


@flax.struct.dataclass
class Batch:
  """Images, and the teacher's features of them where they are known already.

  Attributes:
    images: the images of the batch, uint8 [B, H, W, channels].
    features: the teacher's stages 1 to 3 or 4, [B, H_k, W_k, C_k], or None.
  """

  images: Any
  features: tuple[Any, ...] | None = None


@flax.struct.dataclass
class Course:
  """What a step takes beside images, by its number; None where a method does without.

  Attributes:
    rate: factor of the learning rate, a scalar.
    easy: share of the positions that count as easy in hard mining, a scalar.
    seeds: uint32 [B], the seeds by which something is drawn for each image of the batch.
  """

  rate: Any = None
  easy: Any = None
  seeds: Any = None


def make_train_step(
  loss_function: LossFunction, optimizer: optax.GradientTransformation, axis_name: str | None
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Builds `train_step(state, *inputs)`.

  Args:
    loss_function: `(params, batch_stats, *inputs) -> (loss, (terms, batch_stats))`, means
      over what the calling device holds.
    optimizer: the optax optimizer that takes the step.
    axis_name: the mapped axis over which gradients and terms are averaged; without one
      each device trains a model of its own.

  Returns:
    A pure function which gives the new state and the terms of the global batch,
    'grad_norm' among them. `rate`, a scalar, multiplies what the optimizer does.
  """

  def train_step(
    state: TrainState, *inputs: Any, rate: jax.Array | None = None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    (_, (terms, batch_stats)), grads = jax.value_and_grad(loss_function, has_aux=True)(
      state.params, state.batch_stats, *inputs
    )
    if axis_name is not None:
      grads, terms = jax.lax.pmean((grads, terms), axis_name)
    terms['grad_norm'] = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    if rate is not None:
      updates = jax.tree.map(lambda update: rate * update, updates)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), terms

  return train_step
