"""One training step as a pure function (method, sections 4 to 6)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax
import optax

from memkd_jax.methods import losses
from memkd_jax.models import memory_use
from memkd_jax.models.distiller import Distiller
from memkd_jax.models.resnet import Teacher
from memkd_jax.ops.normalization import normalize_images


@flax.struct.dataclass
class TrainState:
  """Everything that changes during training.

  The order of the data and the draw of the exemplars are functions of the seed
  and the step (`data.order`), so a state resumes them too.

  Attributes:
    step: int32 scalar, steps taken.
    params: the distiller's parameters, keys and values among them.
    batch_stats: running means and variances.
    opt_state: of the optimizer.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


@flax.struct.dataclass
class Batch:
  """Images, and the teacher's features of them where they are known already.

  Attributes:
    images: uint8 [B, S, S, 3].
    features: the teacher's stages 1 to 3 or 4, [B, H_k, W_k, C_k], or None.
  """

  images: Any
  features: tuple[Any, ...] | None = None


def teacher_features(teacher: Teacher, params: Any, images: jax.Array) -> tuple[jax.Array, ...]:
  """The teacher's stages of uint8 images [B, S, S, 3]: [B, H_k, W_k, C_k] each."""
  features: Any = teacher.apply({'params': params}, normalize_images(images, teacher.dtype))
  return features


def memory_targets(
  exemplar_features: tuple[jax.Array, ...],
  embedding: jax.Array | None,
  target_stages: Mapping[int, int],
) -> dict[int, jax.Array]:
  """The target of each memory (method, section 4).

  Args:
    exemplar_features: the teacher's stages 1 to 3 or 4 of the exemplars.
    embedding: phi of the training batch; the target of a memory whose stage is
      not among the features. No gradient flows into it.
    target_stages: {m: the teacher stage that memory m imitates}.

  Returns:
    {m: [N, H, W, C of that stage]}.
  """
  available: dict[int, Any] = dict(enumerate(exemplar_features, start=1))
  fallback: Any = jax.lax.stop_gradient(embedding)
  return {m: available.get(k, fallback) for m, k in target_stages.items()}


def addressing(variables: Any, memories: Iterable[int]) -> dict[int, jax.Array]:
  """The weights with which a pass through the student addressed its memories.

  Args:
    variables: the mutable collections that the pass gave, 'intermediates' among them.
    memories: that are built.

  Returns:
    {m: [B, H, W, L]}.
  """
  return {m: variables['intermediates'][f'memory_m{m}']['weights'][0] for m in memories}


def make_train_step(
  teacher: Teacher,
  exemplar_teacher: Teacher,
  distiller: Distiller,
  optimizer: optax.GradientTransformation,
  target_stages: Mapping[int, int],
  *,
  kd: str,
  lambda_nm: float,
  lambda_orth: float,
) -> Callable:
  """Builds `train_step(state, teacher_params, batch, exemplars)`.

  Args:
    teacher: computes stages 1 to 3.
    exemplar_teacher: computes the stages that the memories' targets need.
    distiller: trained; over its axis name, where it has one, the global batch is
      averaged. Without one each device trains a model of its own.
    optimizer: an optax optimizer.
    target_stages: {m: teacher stage} of the memories that are built.
    kd: 'flat' or 'pixel', see `losses.distillation_loss`.
    lambda_nm: weight of L_NM.
    lambda_orth: weight of L_orth.

  Returns:
    A pure function of the state, the teacher's parameters, and this device's
    shares of the batch and of the exemplars, both `Batch` (exemplars are None
    without memories), which gives the new state and the terms {'loss',
    'kd', 'nm', 'orth', 'kd_<k>', 'grad_norm'} of the global batch, and those of
    `memory_use.step_terms`.
  """

  def train_step(
    state: TrainState, teacher_params: Any, batch: Batch, exemplars: Batch | None
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    inputs = normalize_images(batch.images, teacher.dtype)
    features = _known_or_computed(teacher, teacher_params, batch)
    exemplar_features: tuple[jax.Array, ...] = ()
    if exemplars is not None:
      exemplar_features = _known_or_computed(exemplar_teacher, teacher_params, exemplars)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
      variables = {'params': params, 'batch_stats': state.batch_stats}
      distilled, updates = distiller.apply(
        variables, inputs, features, train=True, mutable=['batch_stats', 'intermediates']
      )
      per_stage = losses.distillation_loss(
        dict(enumerate(features, start=1)), distilled.features, kd
      )
      targets = memory_targets(exemplar_features, distilled.embedding, target_stages)
      recalled: Any = distiller.apply(variables, targets, method='recall_by_values')
      own_memories = {m: params[f'memory_m{m}'] for m in target_stages}
      terms: dict[str, Any] = {
        'kd': sum(per_stage.values()),
        'nm': losses.normality_loss(targets, recalled),
        'orth': losses.orthogonality_loss(own_memories),
      }
      loss = terms['kd'] + lambda_nm * terms['nm'] + lambda_orth * terms['orth']
      terms = {'loss': loss} | terms | {f'kd_{k}': v for k, v in per_stage.items()}
      terms |= memory_use.step_terms(addressing(updates, target_stages), own_memories)
      return loss, (terms, updates['batch_stats'])

    (_, (terms, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    if distiller.axis_name is not None:
      grads, terms = jax.lax.pmean((grads, terms), distiller.axis_name)
    terms['grad_norm'] = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), terms

  return train_step


def _known_or_computed(teacher: Teacher, params: Any, batch: Batch) -> tuple[jax.Array, ...]:
  if batch.features is None:
    return teacher_features(teacher, params, batch.images)
  return tuple(f.astype(teacher.dtype) for f in batch.features)
