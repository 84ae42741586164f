"""Noise and dropout in training, by hand and image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memkd_jax.models import disturbances
from memkd_jax.ops.simplex import simplex_noise

SEEDS = np.array([5, 2**32 - 1, 5], np.uint32)


@pytest.fixture
def features(rng):
  stages = ((3, 16, 16, 4), (3, 8, 8, 6))
  return tuple(rng.uniform(0.1, 2, shape).astype(np.float32) for shape in stages)


def test_dropout_keeps_the_mean():
  x = np.ones((3, 64, 64, 4), np.float32)
  dropped = np.asarray(disturbances.dropout(x, 0.2, SEEDS))
  np.testing.assert_allclose(np.unique(dropped), [0, 1.25])
  shares = (dropped == 0).mean((1, 2, 3))
  np.testing.assert_allclose(shares, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / x[0].size))
  np.testing.assert_array_equal(dropped[0], dropped[2])  # of the same seed
  assert (dropped[0] != dropped[1]).any()


def test_dropout_passes_gradients_where_it_drops_nothing(rng):
  x = rng.normal(size=(3, 4, 4, 2)).astype(np.float32)
  dropped = disturbances.dropout(x, 0.5, SEEDS)
  gradient = jax.grad(lambda x: disturbances.dropout(x, 0.5, SEEDS).sum())(x)
  np.testing.assert_array_equal(gradient, np.where(dropped == 0, 0, 2))


@pytest.mark.parametrize('kind', ['gaussian', 'simplex'])
@pytest.mark.parametrize('share', [0.25, 1.0])
def test_noise_by_hand(features, kind, share):
  found = disturbances.feature_noise(features, jnp.asarray(SEEDS), kind, 0.3, share)
  for b, seed in enumerate(SEEDS):
    key = jax.random.key(seed)
    for k, (clean, noisy) in enumerate(zip(features, found, strict=True), start=1):
      side, _, channels = clean[b].shape
      of_stage = jax.random.fold_in(key, 1 + k)
      if kind == 'gaussian':
        noise = np.asarray(jax.random.normal(of_stage, clean[b].shape))
      else:
        noise = np.asarray(simplex_noise(of_stage, (side, side), 8, channels))
      noise = noise / np.sqrt((noise**2).mean())
      cloud = np.asarray(simplex_noise(jax.random.fold_in(key, 1), (side, side), 4, 1))[..., 0]
      chosen = {tuple(p) for p in np.argwhere(cloud >= np.quantile(cloud, 1 - share))}
      assert len(chosen) == round(share * side**2)
      for p in np.ndindex(side, side):
        size = np.sqrt((clean[b][p] ** 2).mean())
        expected = clean[b][p] + (0.3 * size * noise[p] if p in chosen else 0)
        np.testing.assert_allclose(noisy[b][p], expected, rtol=1e-4, atol=1e-5)


def test_the_regions_of_all_stages_are_the_same(features):
  clean = tuple(np.ones((3, side, side, 2), np.float32) for side in (48, 16))
  noisy = disturbances.feature_noise(clean, jnp.asarray(SEEDS), 'gaussian', 1.0, 0.5)
  fine, coarse = ((np.asarray(a) != b).any(-1) for a, b in zip(noisy, clean, strict=True))
  assert (fine[:, 1::3, 1::3] == coarse).mean() > 0.95


def test_noise_is_no_path_for_gradients(features):
  """Not even where all channels are 0, as behind a ReLU."""
  some = tuple(f.at[:, :2].set(0) for f in map(jnp.asarray, features))

  def total(*stages):
    noisy = disturbances.feature_noise(stages, jnp.asarray(SEEDS), 'gaussian', 0.3, 1.0)
    return sum(f.sum() for f in noisy)

  for gradient in jax.grad(total, argnums=(0, 1))(*some):
    np.testing.assert_array_equal(gradient, 1)


def test_no_noise_at_all(features):
  found = disturbances.feature_noise(features, jnp.asarray(SEEDS), 'simplex', 1.0, 0.0)
  jax.tree.map(np.testing.assert_array_equal, found, features)


def test_noise_has_the_dtype_of_the_features(features):
  rounded = tuple(jnp.asarray(f, jnp.bfloat16) for f in features)
  found = disturbances.feature_noise(rounded, jnp.asarray(SEEDS), 'simplex', 0.3, 0.5)
  assert {f.dtype.name for f in found} == {'bfloat16'}
