"""One pass over the images: what every batch gives, and what is computed once."""

import jax
import numpy as np
import pytest

from memkd_jax.config import RANDOM_TEACHER
from memkd_jax.methods import one_pass
from memkd_jax.methods.one_pass import ImagePass, collect
from memkd_jax.runtime import devices, hosts
from memkd_jax.runtime.devices import Devices
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.teachers.kept_features import KeptFeatures


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def means(features, scale):
  return {'mean': scale * features[1].mean(axis=(1, 2))}


def gather(parts):
  parts = list(parts)
  assert [p for p, _ in parts] == [slice(0, 4), slice(4, 7)]
  return np.concatenate([found['mean'] for _, found in parts])


@pytest.mark.parametrize('number', [1, 4])
@pytest.mark.parametrize('kept', [False, True], ids=['fused', 'kept'])
def test_a_pass_is_what_the_function_gives_of_all_features(images, number, kept):
  extractor = FeatureExtractor(
    'tiny_basic', RANDOM_TEACHER, kept=KeptFeatures() if kept else None
  )
  look = ImagePass(extractor, 2, means, Devices(jax.devices()[:number]), 4)
  expected = means(extractor(extractor.params, images, 2), 3.0)['mean']
  found = gather(look('bolt', images, np.float32(3)))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_functions_are_compiled_once_and_kept_features_computed_once(images, monkeypatch):
  extractor = FeatureExtractor('tiny_basic', RANDOM_TEACHER, kept=KeptFeatures())
  computed = []
  call = FeatureExtractor.__call__
  monkeypatch.setattr(
    FeatureExtractor,
    '__call__',
    lambda self, *a: computed.append(len(a[1])) or call(self, *a),
  )
  traced = []

  def function(features, scale):
    traced.append(1)
    return means(features, scale)

  one = ImagePass(extractor, 2, function, Devices(jax.devices()[:1]), 4)
  two = ImagePass(extractor, 2, means, Devices(jax.devices()[:1]), 4)
  gather(one('bolt', images, np.float32(1)))
  gather(one('bolt', images, np.float32(2)))
  gather(two('bolt', images, np.float32(2)))
  # Traces of batches, by the teacher and by the function; of one image shapes are asked for.
  assert (computed.count(4), len(traced)) == (1, 1)


@pytest.mark.parametrize('who', ['here', 'elsewhere'])
def test_features_that_do_not_fit_are_not_held(images, monkeypatch, who):
  """Also where they would fit here, and another process has no room for them."""
  if who == 'here':
    monkeypatch.setattr(devices, 'free_host_memory', lambda: 0)
  else:
    monkeypatch.setattr(hosts, 'exchange', lambda known: [known, ['elsewhere', 0, 0]])
  monkeypatch.setattr(one_pass, 'collect', lambda *_: pytest.fail('all features are held'))
  kept = KeptFeatures()
  extractor = FeatureExtractor('tiny_basic', RANDOM_TEACHER, kept=kept)
  look = ImagePass(extractor, 2, means, Devices(jax.devices()[:1]), 4)
  expected = means(extractor(extractor.params, images, 2), 3.0)['mean']
  found = gather(look('bolt', images, np.float32(3)))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', [1, 3, 7, 20])
def test_batches_become_one_tree(rng, size):
  whole = {'a': rng.normal(size=(7, 2)), 'b': (None, rng.integers(0, 9, (7, 3, 1)))}
  parts = [slice(begin, min(begin + size, 7)) for begin in range(0, 7, size)]
  batches = ((p, {'a': whole['a'][p], 'b': (None, whole['b'][1][p])}) for p in parts)
  found = collect(batches, 7)
  np.testing.assert_array_equal(found['a'], whole['a'])
  assert found['b'][0] is None
  assert found['b'][1].dtype == whole['b'][1].dtype
  np.testing.assert_array_equal(found['b'][1], whole['b'][1])
