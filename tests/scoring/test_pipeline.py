"""From images to maps and scores, with and without a diagnosis."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from memkd_jax.methods.base import Method, Task
from memkd_jax.scoring.pipeline import Pipeline


def extractor(scale, images, stages):
  """Stage k is the images at half of their sides k times, times a scale and k."""
  return tuple(scale * k * images[:, :: 2**k, :: 2**k] / 255 for k in range(1, stages + 1))


class Fake(Method):
  """Maps of stages 1 and 2, the means of their channels; stage 4 is diagnosed."""

  name, stages, diagnosed_stages, notes = 'Fake', (1, 2), (4,), ()

  def maps(self, params, features, images):
    assert len(features) >= 2
    return {k: params * features[k - 1].mean(-1) for k in self.stages}

  def diagnosed_maps(self, params, features, images):
    assert len(features) == 4
    return self.maps(params, features, images), {'deepest': features[3].max((1, 2, 3))}


class Mean(Fake):
  """Has an image score of its own."""

  def image_scores(self, params, features, maps, combined):
    assert combined.shape == (3, 16, 16)
    return maps[1].mean((1, 2)) - features[0].mean((1, 2, 3))


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize('combine', ['sum', 'product'])
def test_maps_are_combined_enlarged_and_smoothed(images, combine):
  pipeline = Pipeline(extractor, Fake(), combine, align_corners=True, sigma=1.5)
  maps, scores = jax.jit(pipeline.score)(3.0, 2.0, images)
  stages = [
    ndimage.zoom(feature.mean(-1), (1, 2**k, 2**k), order=1)
    for k, feature in enumerate(extractor(6.0, images, 2), start=1)
  ]
  combined = sum(stages) if combine == 'sum' else stages[0] * stages[1]
  expected = ndimage.gaussian_filter(combined, 1.5, axes=(1, 2))
  np.testing.assert_allclose(maps, expected, rtol=1e-4)
  np.testing.assert_allclose(scores, expected.max((1, 2)), rtol=1e-4)


@pytest.mark.parametrize('method', [Fake(), Mean()])
def test_a_diagnosis_changes_no_map_and_no_score(images, method):
  pipeline = Pipeline(extractor, method)
  alone = pipeline.score(3.0, 2.0, images)
  maps, scores, diagnosis = pipeline.score_and_diagnose(3.0, 2.0, images)
  np.testing.assert_array_equal(maps, alone[0])
  np.testing.assert_array_equal(scores, alone[1])
  np.testing.assert_allclose(diagnosis['deepest'], extractor(2.0, images, 4)[3].max((1, 2, 3)))
  if isinstance(method, Mean):
    expected = 2 * extractor(2.0, images, 1)[0].mean((1, 2, 3))  # 3 times that, less it
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize('method', [Fake(), Mean()])
def test_the_highest_hundredth_takes_the_place_of_any_score(images, method):
  maps, scores = Pipeline(extractor, method, image_score='top').score(3.0, 2.0, images)
  highest = np.sort(np.asarray(maps).reshape(3, -1))[:, -3:]  # of 256
  np.testing.assert_allclose(scores, highest.mean(1), rtol=1e-6)


@pytest.mark.parametrize('number', [1, 3])
def test_maps_are_normalised_before_they_are_combined(images, rng, number):
  """With the statistics of the model, or with some for each image."""
  statistics = {
    f'stage{k}': {
      'mean': rng.random((number, side, side), np.float32),
      'spread': rng.uniform(0.1, 1, (number, 1, 1)).astype(np.float32),
    }
    for k, side in ((1, 8), (2, 4))
  }
  pipeline = Pipeline(extractor, Fake(), sigma=0.0, normalize='position')
  raw = pipeline.stage_maps(3.0, 2.0, images)
  assert {k: x.shape for k, x in raw.items()} == {1: (3, 8, 8), 2: (3, 4, 4)}
  shown = []
  for b in range(3):
    stages = []
    for k, x in raw.items():
      usual = {n: v[b % number] for n, v in statistics[f'stage{k}'].items()}
      stages.append(
        ndimage.zoom((np.asarray(x[b]) - usual['mean']) / usual['spread'], 2**k, order=1)
      )
    shown.append(sum(stages))
  maps, scores = jax.jit(pipeline.score)(3.0, 2.0, images, statistics)
  np.testing.assert_allclose(maps, shown, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(scores, np.max(shown, (1, 2)), rtol=1e-3)
  seen = pipeline.score_and_diagnose(3.0, 2.0, images, statistics)
  np.testing.assert_allclose(seen[0], maps, rtol=1e-5, atol=1e-5)
  # A score of the method's own is of the maps as the method gave them.
  own = Pipeline(extractor, Mean(), normalize='position').score(3.0, 2.0, images, statistics)
  plain = Pipeline(extractor, Mean()).score(3.0, 2.0, images)
  np.testing.assert_array_equal(own[1], plain[1])
  assert np.abs(own[0] - plain[0]).max() > 0.1


@pytest.mark.parametrize('paradigm', ['reverse', 'forward'])
def test_both_programs_of_the_distillation_give_equal_maps(
  tiny_config, one_device, make_method, rng, paradigm
):
  tiny_config.model.paradigm = paradigm
  method = make_method(tiny_config, one_device)
  images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
  params = method.trainer.fold(method.trainer.init_state(Task.of_category('bolt', 0), images))
  pipeline = Pipeline(method.extractor, method, **tiny_config.anomaly_map.to_dict())
  given = params, method.extractor.params, images
  alone = jax.jit(pipeline.score)(*given)
  maps, scores, diagnosis = jax.jit(pipeline.score_and_diagnose)(*given)
  assert maps.shape == (2, 32, 32)
  assert maps.dtype == scores.dtype == np.float32
  np.testing.assert_array_equal(maps, alone[0])
  np.testing.assert_array_equal(scores, alone[1])
  assert set(diagnosis) == ({'m1', 'm2', 'm3'} if paradigm == 'reverse' else {'m1', 'm2'})
