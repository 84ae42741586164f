import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.models import folding
from memkd_jax.models.distiller import FUSIONS
from memkd_jax.models.distillers import ForwardDistiller, ReverseDistiller
from memkd_jax.models.resnet import ARCHITECTURES

pytestmark = pytest.mark.newest


@pytest.mark.parametrize('arch', ['tiny_basic', 'tiny_bottleneck'])
@pytest.mark.parametrize('kind', [ReverseDistiller, ForwardDistiller])
@pytest.mark.parametrize('fusion', FUSIONS)
def test_folded_equals_unfolded(rng, arch, kind, fusion):
  options = {'fusion': fusion}
  if kind is ForwardDistiller:
    options |= {'student': arch, 'projection': True}
  check_folding(rng, arch, kind, options)


@pytest.mark.parametrize(
  'options', [{'layout': 'aligned'}, {'adapt': True}], ids=['aligned', 'adapted']
)
def test_folded_equals_unfolded_of_other_students(rng, options):
  check_folding(rng, 'tiny_basic', ReverseDistiller, options)


def check_folding(rng, arch, kind, options):
  options = options | {'temperature': 0.1}
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

  kept = model.unfolding(params, batch_stats)
  assert 'kernel' not in {path[-1].key for path, _ in jax.tree.leaves_with_path(kept)}
  again = model.unfold(folded, kept)
  check_same(again, (params, batch_stats))
  found = model.apply({'params': again[0], 'batch_stats': again[1]}, images, features)
  for k, feature in expected.features.items():
    assert jnp.linalg.norm(found.features[k] - feature) < 1e-5 * jnp.linalg.norm(feature)


def check_same(found, expected):
  """Kernels to a rounding, all else exactly."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)

  def check(path, a, b):
    np.testing.assert_allclose(a, b, rtol=3e-7 if path[-1].key == 'kernel' else 0)

  jax.tree.map_with_path(check, found, expected)


def init_shapes(model):
  channels = ARCHITECTURES[model.arch].channels
  features = tuple(jnp.zeros((1, 64 >> k, 64 >> k, channels(k))) for k in (1, 2, 3))
  return jax.eval_shape(model.init, jax.random.key(0), None, features)


@pytest.mark.parametrize('gamma', [0.0, -1e-30, 1e-12])
def test_a_channel_that_is_switched_off_comes_back(rng, gamma):
  """Its folded kernel is zero, or nearly: it is kept where nothing is left of it."""
  model = ReverseDistiller('tiny_basic', memory_items=5)
  params, batch_stats = (
    jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape).astype(np.float32), tree)
    for tree in map(init_shapes(model).get, ('params', 'batch_stats'))
  )
  before_recall = params['student_stage2']['block0']['shortcut']
  for layer in (params['bottleneck']['stage2_down'], before_recall):
    layer['norm']['scale'][1] = gamma
  kept = model.unfolding(params, batch_stats)
  kernels = [path for path, _ in jax.tree.leaves_with_path(kept) if path[-1].key == 'kernel']
  assert len(kernels) == (0 if gamma == 1e-12 else 2)
  check_same(model.unfold(model.fold(params, batch_stats), kept), (params, batch_stats))


@pytest.mark.parametrize(
  ('arch', 'memories', 'share'),
  [
    ('resnet18', (), 0.01),
    ('wide_resnet50_2', (), 0.01),
    # The kernels that see a recall are kept beside those into which the values are folded.
    ('resnet18', (1, 2, 3), 0.09),
    ('wide_resnet50_2', (1, 2, 3), 0.15),
  ],
)
def test_what_unfolding_needs_is_a_small_part_of_a_model(arch, memories, share, monkeypatch):
  monkeypatch.setattr(folding, '_SMALLEST_SCALE', -1.0)
  monkeypatch.setattr(folding.jnp, 'min', lambda _: 0.0)  # of shapes there is none
  model = ReverseDistiller(arch, memories=memories)
  shapes = init_shapes(model)
  sizes = [
    sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(fold, *map(shapes.get, names))))
    for fold in (model.unfolding, model.fold)
    for names in [('params', 'batch_stats')]
  ]
  assert 0.001 < sizes[0] / sizes[1] < share
