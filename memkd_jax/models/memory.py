"""The normality recall memory (method, sections 2.3 and 4)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from memkd_jax.models.layers import param_dtype
from memkd_jax.ops.cosine import normalize


class NRMemory(nn.Module):
  """L learned keys and L learned values of width C.

  Both are parameters: trained by the optimizer and saved in every checkpoint.

  Attributes:
    items: L, the number of key-value pairs.
    features: C, the width of a query.
    temperature: the number by which cosines are divided before the softmax.
    dtype: dtype of the recall; addressing is float32 at least.
  """

  items: int
  features: int
  temperature: float = 1.0
  dtype: DTypeLike = jnp.float32

  def setup(self) -> None:
    normal = nn.initializers.normal(1.0)
    shape, dtype = (self.items, self.features), param_dtype(self.dtype)
    self.keys = self.param('keys', normal, shape, dtype)
    self.values = self.param('values', normal, shape, dtype)

  def __call__(self, queries: jax.Array) -> jax.Array:
    """Recalls the normality of queries by the keys.

    w = softmax(cos(q, K_l) / temperature); r = sum_l w_l V_l.

    Args:
      queries: features of the student, floating [..., C].

    Returns:
      r, [..., C]. The weights w, [..., L], are sown as intermediates.
    """
    return self._recall(self.address(queries))

  def address(self, queries: jax.Array) -> jax.Array:
    """The weights w alone, [..., L], float32 at least; sown as intermediates."""
    weights = self._address(queries, self.keys)
    self.sow('intermediates', 'weights', weights)
    return weights

  def recall_by_values(self, features: jax.Array) -> jax.Array:
    """Recalls as `__call__`, but addresses by the values: the query of L_NM.

    Args:
      features: [..., C], teacher features of normal exemplars.

    Returns:
      r, [..., C].
    """
    return self._recall(self._address(features, self.values))

  def _address(self, queries: jax.Array, addresses: jax.Array) -> jax.Array:
    # Full precision: accelerators would otherwise round the cosines to bf16. An einsum with
    # '...' would be exported to ONNX with a copy of the addresses for each position.
    cosines = jnp.tensordot(
      normalize(queries), normalize(addresses), (-1, -1), precision='highest'
    )
    return jax.nn.softmax(cosines / self.temperature)

  def _recall(self, weights: jax.Array) -> jax.Array:
    recalled = jnp.tensordot(weights, self.values, 1, precision='highest')
    return recalled.astype(self.dtype)
