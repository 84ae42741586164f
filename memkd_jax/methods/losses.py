"""The losses of the distillation family (method, sections 4 and 5), as a table.

All are computed in float32 at least. Each is a mean over what the calling
device holds, so averaging over devices with equal shares gives the loss of the
global batch.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memkd_jax.ops.cosine import cosine_distances, cosine_similarity, normalize

KD_READINGS = ('global_cosine', 'local_cosine')
ORTHOGONAL_PAIRS = ('within', 'cross')


class Pass(NamedTuple):
  """What one pass of a training step gives to the losses.

  Attributes:
    teacher: {k: F_T^k}, features of the teacher's stages, [B, H_k, W_k, C_k].
    student: {k: F_S^k} of the distilled stages, same shapes.
    targets: {m: features of the exemplars that memory m is to recall}, [N, H, W, C].
    recalled: {m: what memory m recalls for them by its values}, same shapes.
    memories: the parameters of the memories, {m: {'keys': [L, C], 'values': [L, C]}}.
    adapted: {k: F_A^k} of the distilled stages, where the teacher is adapted; else empty.
    rebuilt: {k: what the student gives for the adapted features}, same shapes.
    easy: share of the positions that count as easy, where they are mined.
  """

  teacher: Mapping[int, jax.Array]
  student: Mapping[int, jax.Array]
  targets: Mapping[int, jax.Array]
  recalled: Mapping[int, jax.Array]
  memories: Mapping[Any, Mapping[str, jax.Array]]
  adapted: Mapping[int, jax.Array] = MappingProxyType({})
  rebuilt: Mapping[int, jax.Array] = MappingProxyType({})
  easy: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Term:
  """One weighted part of the loss.

  Attributes:
    name: name of the term in logs.
    weight: the factor with which the term enters the loss.
    value: gives a scalar; or a scalar for each distilled stage, {k: scalar}, of which the
      term is the sum, and which are logged as well, as '<name>_<k>'.
  """

  name: str
  weight: float
  value: Callable[[Pass], jax.Array | dict[int, jax.Array]]


def loss_table(loss: Any, axis_name: str | None = None) -> tuple[Term, ...]:
  """The terms of L = L_KD + lambda_1 L_NM + lambda_2 L_orth; a further term is a line here.

  Args:
    loss: the config's section 'loss'.
    axis_name: the mapped axis over which a batch is shared out, if any.
  """

  def kd(
    teacher: Mapping[int, jax.Array], student: Mapping[int, jax.Array], easy: Any
  ) -> dict[int, jax.Array]:
    if loss.hard_mining:
      student = mine(teacher, student, easy, loss.easy_factor, axis_name)
    return distillation_loss(teacher, student, loss.kd)

  def hardest(
    teacher: Mapping[int, jax.Array], student: Mapping[int, jax.Array]
  ) -> dict[int, jax.Array]:
    return hardest_loss(teacher, student, loss.hardest)

  terms = (
    Term(
      'kd',
      1.0,
      lambda p: add(kd(p.teacher, p.student, p.easy), kd(p.adapted, p.rebuilt, p.easy)),
    ),
    Term('nm', loss.lambda_nm, lambda p: normality_loss(p.targets, p.recalled)),
    Term('orth', loss.lambda_orth, lambda p: orthogonality_loss(p.memories, loss.orth)),
  )
  if not loss.hardest:
    return terms
  return (
    *terms,
    Term(
      'hardest',
      1.0,
      lambda p: add(hardest(p.teacher, p.student), hardest(p.adapted, p.rebuilt)),
    ),
  )


def add(
  distances: Mapping[int, jax.Array], further: Mapping[int, jax.Array]
) -> dict[int, jax.Array]:
  """Distances of stages from one teacher, plus those from a second one where there are any."""
  return {k: value + further[k] if k in further else value for k, value in distances.items()}


def total_loss(table: Sequence[Term], given: Pass) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum of a table's terms, and what of them is logged.

  Args:
    table: the terms of the loss, with their weights.
    given: what one pass gave, of which the terms are computed.

  Returns:
    (a scalar, {'loss', the terms' names, '<name>_<k>': scalar}).
  """
  terms: dict[str, jax.Array] = {}
  parts: dict[str, jax.Array] = {}
  for term in table:
    value = term.value(given)
    if isinstance(value, dict):
      parts |= {f'{term.name}_{k}': part for k, part in value.items()}
      value = functools.reduce(jnp.add, value.values())
    terms[term.name] = value
  first, *rest = table
  loss = first.weight * terms[first.name]
  for term in rest:
    loss = loss + term.weight * terms[term.name]
  return loss, {'loss': loss} | terms | parts


def log_order(table: Sequence[Term], names: Iterable[str]) -> list[str]:
  """Sorts the names of logged values: the loss, the table's terms, the rest by name.

  Args:
    table: the terms of the loss.
    names: the names of terms to be sorted.
  """
  first = ['loss', *(term.name for term in table)]
  return sorted(names, key=lambda n: (first.index(n) if n in first else len(first), n))


def causal_order(
  table: Sequence[Term], names: Iterable[str], running_order: Sequence[int]
) -> list[str]:
  """Sorts the names of logged values so that causes come before their consequences.

  The memories' parameters come first, then how they are addressed, the parts of the terms,
  the terms in the table's order, their sum, the gradient; unknown names come last.

  Args:
    table: the terms of the loss.
    names: the names of terms to be sorted.
    running_order: numbers of the stages in the student, each of which takes what the one
      before it gave.
  """
  terms = [re.escape(term.name) for term in table]
  kinds = (
    r'm\d_(keys|values)_cosine',
    r'm\d_entropy',
    rf'({"|".join(terms)})_\d',
    *terms,
    'loss',
    'grad_norm',
  )

  def rank(name: str) -> tuple[int, int, str]:
    kind = next((i for i, p in enumerate(kinds) if re.fullmatch(p, name)), len(kinds))
    digit = re.search(r'\d', name)
    known = digit is not None and int(digit[0]) in running_order
    return kind, running_order.index(int(digit[0])) if digit and known else 0, name

  return sorted(names, key=rank)


def distillation_loss(
  teacher: Mapping[int, jax.Array],
  student: Mapping[int, jax.Array],
  reading: str = 'global_cosine',
) -> dict[int, jax.Array]:
  """The terms of L_KD: the cosine distance of each distilled stage (section 5).

  Args:
    teacher: {k: F_T^k}, features of the teacher's stages, [B, H_k, W_k, C_k].
    student: {k: F_S^k}, features of the student's stages, of the same shapes; its keys say what
      is distilled.
    reading: 'global_cosine' takes one cosine per image over the flattened map (RD's
      released code), 'local_cosine' one per position (RD's text).

  Returns:
    {k: scalar in [0, 2]}; L_KD is their sum.
  """
  axis = (1, 2, 3) if reading == 'global_cosine' else -1
  return {k: jnp.mean(1.0 - cosine_similarity(teacher[k], student[k], axis)) for k in student}


def hardest_loss(
  teacher: Mapping[int, jax.Array], student: Mapping[int, jax.Array], number: int
) -> dict[int, jax.Array]:
  """The cosine distance of the positions that are rebuilt worst (section 10; AAND).

  A mean over all positions hardly sees what is rare among normal images; this one does.

  Args:
    teacher: {k: F_T^k}, features of the teacher's stages, [B, H_k, W_k, C_k].
    student: {k: F_S^k}, features of the student's stages, of the same shapes.
    number: how many positions of each image and stage are taken, all of them where there are
      fewer.

  Returns:
    {k: scalar in [0, 2]}, means over images and their hardest positions.
  """
  terms = {}
  for k, distances in cosine_distances(teacher, student).items():
    flat = distances.reshape(len(distances), -1)
    hardest, _ = jax.lax.top_k(flat, min(number, flat.shape[1]))
    terms[k] = jnp.mean(hardest)
  return terms


def mine(
  teacher: Mapping[int, jax.Array],
  student: Mapping[int, jax.Array],
  share: jax.Array | float,
  factor: float,
  axis_name: str | None = None,
) -> dict[int, jax.Array]:
  """Hard mining: scales down the gradient at positions that are rebuilt well already.

  Section 10, after Dinomaly and ReContrast. The easiest positions are those of the whole
  batch, whichever devices hold it, of each stage.

  Args:
    teacher: {k: F_T^k}, features of the teacher's stages, [B, H_k, W_k, C_k].
    student: {k: F_S^k}, features of the student's stages, of the same shapes.
    share: share of the positions that count as easy, a scalar in [0, 1]. Of equal ones on the
      border none does, and the hardest never does.
    factor: what their gradient is multiplied by.
    axis_name: the mapped axis over which the batch is shared out, if any.

  Returns:
    The student's features, unchanged; only the gradient into them differs.
  """
  mined = {}
  for k, distances in jax.lax.stop_gradient(cosine_distances(teacher, student)).items():
    batch = distances if axis_name is None else jax.lax.all_gather(distances, axis_name)
    border = jnp.minimum(jnp.round(share * batch.size), batch.size - 1).astype(jnp.int32)
    easy = distances < jnp.sort(batch, axis=None)[border]
    scale = jnp.where(easy, factor, 1.0)[..., None].astype(student[k].dtype)
    still = jax.lax.stop_gradient(student[k])
    mined[k] = still + scale * (student[k] - still)
  return mined


def normality_loss(
  targets: Mapping[int, jax.Array], recalled: Mapping[int, jax.Array]
) -> jax.Array:
  """L_NM: 1 - cos(f, r), the mean over positions, then over memories (section 4).

  The mean over positions is taken per memory first, so that no memory counts
  for more because its feature map is larger.

  Args:
    targets: {m: f}, the exemplars' features [N, H, W, C].
    recalled: {m: r}, what memory m recalls for them by its values.

  Returns:
    A scalar in [0, 2]; 0 without memories.
  """
  terms = [jnp.mean(1.0 - cosine_similarity(targets[m], recalled[m])) for m in recalled]
  return jnp.mean(jnp.stack(terms)) if terms else jnp.zeros(())


def orthogonality_loss(
  memories: Mapping[Any, Mapping[str, jax.Array]], pairs: str = 'within'
) -> jax.Array:
  """L_orth: the mean squared cosine of items that are to be different (sections 5 and 9).

  Args:
    memories: the parameters of the memories, {name: {'keys': [L, C], 'values': [L, C]}}.
    pairs: 'within' for different keys plus different values, as the text says; 'cross' for
      every key with every value, as the paper's figure draws it.

  Returns:
    A scalar, the mean over memories, in [0, 2] within and in [0, 1] across; 0 without
    memories.
  """
  if pairs == 'cross':
    terms = [
      jnp.mean(_squared_products(normalize(m['keys']), normalize(m['values'])))
      for m in memories.values()
    ]
  else:
    terms = [
      _mean_squared_cosine(m['keys']) + _mean_squared_cosine(m['values'])
      for m in memories.values()
    ]
  return jnp.mean(jnp.stack(terms)) if terms else jnp.zeros(())


def _mean_squared_cosine(items: jax.Array) -> jax.Array:
  """mean_{i != j} cos(x_i, x_j)^2 of the rows of [L, C]; 0 for a single row."""
  unit, number = normalize(items), items.shape[0]
  squared = _squared_products(unit, unit)
  off_diagonal = squared * (1.0 - jnp.eye(number, dtype=squared.dtype))
  return jnp.sum(off_diagonal) / max(number * (number - 1), 1)


def _squared_products(a: jax.Array, b: jax.Array) -> jax.Array:
  """(a_i . b_j)^2 of the rows of [L, C] and [M, C]: [L, M]."""
  return jnp.einsum('ic,jc->ij', a, b, precision='highest') ** 2
