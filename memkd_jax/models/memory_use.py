"""Measures of a memory's use: whether it recalls single items or averages all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from memkd_jax.ops.cosine import cosine_similarity, normalize


def addressing_entropy(weights: jax.Array) -> jax.Array:
  """Entropy of addressing weights as a share of its maximum, log L.

  Args:
    weights: addressing weights, [..., L], each a softmax over the items.

  Returns:
    [...]: 0 where one item is recalled alone, 1 where all are averaged.
  """
  items = weights.shape[-1]
  entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=-1)
  return entropy / np.log(items) if items > 1 else entropy


def mean_absolute_cosine(items: jax.Array) -> jax.Array:
  """mean_{i != j} |cos(x_i, x_j)| over pairs of items.

  Args:
    items: keys or values of a memory, [L, C].

  Returns:
    A scalar in [0, 1]; 0 for a single item.
  """
  unit = normalize(items)
  cosines = jnp.abs(jnp.einsum('ic,jc->ij', unit, unit, precision='highest'))
  number = items.shape[0]
  off_diagonal = cosines * (1.0 - jnp.eye(number, dtype=cosines.dtype))
  return jnp.sum(off_diagonal) / max(number * (number - 1), 1)


def step_terms(
  addressing: Mapping[int, jax.Array], memories: Mapping[int, Mapping[str, jax.Array]]
) -> dict[str, jax.Array]:
  """The terms of each memory that the log shows at a training step.

  Args:
    addressing: {m: addressing weights [B, H, W, L]} of the batch's queries.
    memories: the parameters of the memories, {m: {'keys': [L, C], 'values': [L, C]}}.

  Returns:
    {'m<m>_entropy', 'm<m>_keys_cosine', 'm<m>_values_cosine': scalar in [0, 1]}.
  """
  terms = {}
  for m, weights in addressing.items():
    terms[f'm{m}_entropy'] = jnp.mean(addressing_entropy(weights))
    for name in ('keys', 'values'):
      terms[f'm{m}_{name}_cosine'] = mean_absolute_cosine(memories[m][name])
  return terms


def per_position(
  addressing: Mapping[int, jax.Array],
  targets: Mapping[int, jax.Array],
  recalled: Mapping[int, jax.Array],
) -> dict[str, dict[str, jax.Array]]:
  """The use of each memory for each image, and at each position where it has one.

  Args:
    addressing: {m: addressing weights [B, H, W, L]} of the student's queries.
    targets: {m: teacher features [B, H, W, C]} that memory m imitates.
    recalled: {m: what memory m recalls for its targets by its values, [B, H, W, C]}.

  Returns:
    {'m<m>': {'usage': mean weight of each item [B, L], 'entropy': see
    `addressing_entropy`, [B, H, W], 'cosine': that of target and recall, [B, H, W]}}.
  """
  return {
    f'm{m}': {
      'usage': jnp.mean(weights, axis=(1, 2)),
      'entropy': addressing_entropy(weights),
      'cosine': cosine_similarity(targets[m], recalled[m]),
    }
    for m, weights in addressing.items()
  }


def anomalous_positions(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Positions of a feature map that cover any anomalous pixel.

  Args:
    masks: bool [N, S, T], True where a pixel is anomalous (or counts, for positions that do).
    size: (height, width) of the feature map in positions, divisors of S and T.

  Returns:
    bool [N, height, width].
  """
  number, *lengths = masks.shape
  rows, columns = (length // parts for length, parts in zip(lengths, size, strict=True))
  blocks = masks.reshape(number, size[0], rows, size[1], columns)
  return np.asarray(blocks.any(axis=(2, 4)))


def split_cosines(
  cosine: np.ndarray,
  labels: np.ndarray,
  masks: np.ndarray | None,
  seen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Splits the cosines of test images into those of normal and of anomalous positions.

  Args:
    cosine: [N, H, W], the cosine of target and recall at each position.
    labels: labels of the images [N], 1 for anomalous.
    masks: bool [N, S, T], True where a pixel is anomalous. Without masks (None), all
      positions of an anomalous image count as anomalous.
    seen: bool [N, S, T], which pixels count; positions without any are left out.

  Returns:
    The cosines of normal and of anomalous positions, [P] and [Q].
  """
  anomalous = np.broadcast_to((labels == 1)[:, None, None], cosine.shape)
  if masks is not None:
    anomalous = anomalous_positions(masks, cosine.shape[1:])
  counts = True if seen is None else anomalous_positions(seen, cosine.shape[1:])
  return cosine[~anomalous & counts], cosine[anomalous & counts]


def summarize(
  usage: np.ndarray, entropy: np.ndarray, memory: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """The figures of one memory over the training images, as JSON values.

  Args:
    usage: [N, L], the mean weight of each item.
    entropy: entropy at each position, [N, H, W], see `addressing_entropy`.
    memory: the parameters of the memory, {'keys': [L, C], 'values': [L, C]}.

  Returns:
    {'usage': [L], 'entropy', 'used_items' (L to the power of the mean entropy),
    'keys_cosine', 'values_cosine'}.
  """
  mean_entropy = float(entropy.mean(dtype=np.float64))
  return {
    'usage': usage.mean(axis=0, dtype=np.float64).tolist(),
    'entropy': mean_entropy,
    'used_items': float(usage.shape[1] ** mean_entropy),
    'keys_cosine': float(mean_absolute_cosine(jnp.asarray(memory['keys']))),
    'values_cosine': float(mean_absolute_cosine(jnp.asarray(memory['values']))),
  }


def by_category(usage: np.ndarray, owners: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
  """Which items serve which category, all of which weigh the same, as JSON values.

  Args:
    usage: [N, L], the mean weight of each item of each image.
    owners: int [N], the index of each image's category.
    names: names of the C categories.

  Returns:
    {'usage_by_category': {name: [L], the mean over its images}, 'category_information': the
    mutual information of item and category as a share of its maximum, log min(C, L): 0 where
    all categories use the items alike, 1 where an item tells the category}.
  """
  there = [owner for owner in range(len(names)) if (owners == owner).any()]
  names = [names[owner] for owner in there]  # train.stop=plateau may leave one none
  means = np.stack([usage[owners == owner].mean(axis=0, dtype=np.float64) for owner in there])
  ratios = means / np.maximum(means.mean(axis=0), np.finfo(np.float64).tiny)
  information = float(special.xlogy(means, ratios).sum(axis=1).mean())
  most = np.log(min(means.shape))
  return {
    'usage_by_category': dict(zip(names, means.tolist(), strict=True)),
    'category_information': information / float(most) if most else 0.0,
  }


def mean_cosines(cosines: tuple[np.ndarray, np.ndarray]) -> dict[str, float | None]:
  """Means of what `split_cosines` gives: {'normal', 'anomalous'}, None where there is none."""
  return {
    name: float(values.mean(dtype=np.float64)) if values.size else None
    for name, values in zip(('normal', 'anomalous'), cosines, strict=True)
  }
