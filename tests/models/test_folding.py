import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.models.distillers import FUSIONS, ForwardDistiller, ReverseDistiller
from memkd_jax.models.resnet import ARCHITECTURES


@pytest.mark.parametrize('arch', ['tiny_basic', 'tiny_bottleneck'])
@pytest.mark.parametrize('kind', [ReverseDistiller, ForwardDistiller])
@pytest.mark.parametrize('fusion', FUSIONS)
def test_folded_equals_unfolded(rng, arch, kind, fusion):
  options = {'fusion': fusion, 'temperature': 0.1}
  if kind is ForwardDistiller:
    options |= {'student': arch, 'projection': True}
  model = kind(arch, memory_items=5, **options)
  images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  features = tuple(
    rng.random((2, 16 // 2**k, 16 // 2**k, ARCHITECTURES[arch].channels(k)), np.float32)
    for k in (1, 2, 3)
  )
  variables = model.init(jax.random.key(0), images, features)

  def draw(tree, low, high):
    return jax.tree.map(lambda x: rng.uniform(low, high, x.shape).astype(np.float32), tree)

  # Statistics and affine maps that are far from the identity.
  statistics = {
    path: draw(leaf, 0.1, 4) if path[-1].key == 'var' else draw(leaf, -1, 1)
    for path, leaf in jax.tree.leaves_with_path(variables['batch_stats'])
  }
  batch_stats = jax.tree.unflatten(
    jax.tree.structure(variables['batch_stats']), list(statistics.values())
  )
  params = jax.tree.map_with_path(
    lambda path, x: draw(x, 0.5, 2) if path[-2].key == 'norm' else x, variables['params']
  )
  expected = model.apply({'params': params, 'batch_stats': batch_stats}, images, features)
  folded = model.fold(params, batch_stats)
  assert not [p for p, _ in jax.tree.leaves_with_path(folded) if p[-2].key == 'norm']
  found = kind(arch, memory_items=5, folded=True, **options).apply(
    {'params': folded}, images, features
  )
  for k, feature in expected.features.items():
    assert jnp.linalg.norm(found.features[k] - feature) < 1e-5 * jnp.linalg.norm(feature)
