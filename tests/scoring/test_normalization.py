"""Maps in units of what is usual, against loops over positions and images."""

import numpy as np
import pytest

from memkd_jax import config as base
from memkd_jax.errors import UserError
from memkd_jax.scoring import normalization

MEASURED = pytest.mark.parametrize('kind', ['stage', 'position'])


@pytest.fixture
def maps(rng):
  """Of two stages and five images; each position has a level and a spread of its own."""
  return {
    k: (rng.uniform(0, 3, (side, side)) + rng.random((5, side, side)) ** 2).astype(np.float32)
    for k, side in ((1, 4), (3, 2))
  }


def by_hand(images, kind):
  """Mean and spread at each position of [n, H, W]: [H, W] each."""
  _, height, width = images.shape
  mean, variance = np.zeros((2, height, width))
  for p in np.ndindex(height, width):
    values = images.ravel().tolist() if kind == 'stage' else images[(slice(None), *p)].tolist()
    mean[p] = sum(values) / len(values)
    variance[p] = sum((v - mean[p]) ** 2 for v in values) / len(values)
  typical = np.sqrt(variance.mean())
  return mean, np.maximum(np.sqrt(variance), 0.1 * typical)


@MEASURED
def test_mean_and_spread(maps, kind):
  found = normalization.measure(maps, kind)
  assert set(found) == {'stage1', 'stage3'}
  for k, images in maps.items():
    mean, spread = by_hand(images.astype(np.float64), kind)
    usual = found[f'stage{k}']
    assert usual['mean'].shape == ((1, 1, 1) if kind == 'stage' else (1, *images.shape[1:]))
    assert usual['mean'].dtype == usual['spread'].dtype == np.float32
    np.testing.assert_allclose(np.broadcast_to(usual['mean'][0], mean.shape), mean, rtol=1e-6)
    np.testing.assert_allclose(
      np.broadcast_to(usual['spread'][0], mean.shape), spread, rtol=1e-6
    )


@MEASURED
def test_those_of_the_others(maps, kind):
  """For each image `measure` of a set that lacks it."""
  found = normalization.measure_others(maps, kind)
  for i in range(5):
    expected = normalization.measure({k: np.delete(x, i, 0) for k, x in maps.items()}, kind)
    for k in maps:
      for name, values in expected[f'stage{k}'].items():
        np.testing.assert_allclose(found[f'stage{k}'][name][i : i + 1], values, rtol=1e-5)


@MEASURED
def test_normalized_maps(maps, kind):
  statistics = normalization.measure(maps, kind)
  normalized = normalization.normalize(maps, statistics)
  assert list(normalized) == list(maps)
  for k, images in maps.items():
    mean, spread = by_hand(images.astype(np.float64), kind)
    np.testing.assert_allclose(normalized[k], (images - mean) / spread, rtol=1e-4, atol=1e-5)
  others = normalization.normalize(maps, normalization.measure_others(maps, kind))
  # Whoever is not counted among the usual looks less usual.
  for k in maps:
    assert np.abs(others[k]).max() > np.abs(normalized[k]).max()


@MEASURED
def test_a_new_image_is_as_unusual_as_each_of_the_others_was(rng, kind):
  """The share of new images above the highest of n held-out ones is 1 / (n + 1)."""
  above = []
  for _ in range(400):
    held, new = np.split(rng.normal(size=(9, 6, 6)).astype(np.float32), [8])
    usual = normalization.measure({1: held}, kind)
    score = normalization.normalize({1: new}, usual)[1].max()
    others = normalization.measure_others({1: held}, kind)
    above.append(score > normalization.normalize({1: held}, others)[1].max())
  # 1 / 9; measured by its own share too the highest of eight would be passed far more often.
  assert np.mean(above) == pytest.approx(1 / 9, abs=4 * np.sqrt(8 / 81 / 400))


def test_what_never_varies_divides_by_something():
  maps = {0: np.full((4, 2, 2), 0.5, np.float32)}
  for found in (
    normalization.measure(maps, 'position'),
    normalization.measure_others(maps, 'stage'),
  ):
    np.testing.assert_array_equal(found['stage0']['spread'], 1)
  maps[0][:, 0, 0] = [0, 1, 2, 3]  # of four positions one varies
  spread = normalization.measure(maps, 'position')['stage0']['spread'][0]
  np.testing.assert_allclose(spread[0, 0], np.sqrt(1.25))
  np.testing.assert_allclose(spread[1, 1], 0.1 * np.sqrt(1.25 / 4))


def test_large_levels_cost_no_digits(rng):
  maps = {1: (1e4 + rng.normal(size=(6, 8, 8))).astype(np.float32)}
  for kind in ('stage', 'position'):
    others = normalization.measure_others(maps, kind)['stage1']['spread']
    expected = normalization.measure({1: maps[1][1:]}, kind)['stage1']['spread']
    np.testing.assert_allclose(others[:1], expected, rtol=1e-5)


def test_too_few_images_are_refused():
  normalization.check_number('tile', 'none', 0)
  normalization.check_number('tile', 'stage', 3)
  with pytest.raises(UserError, match=r'normalize=stage: .* tile has 2 .*train\.holdout=0\.1'):
    normalization.check_number('tile', 'stage', 2)


def test_choices_are_those_of_the_field():
  choices = {field.name: field.choices for field in base.FIELDS}
  assert choices['anomaly_map.normalize'] == normalization.NORMALIZATIONS
