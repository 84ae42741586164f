"""From uint8 images to features: the one door."""

import jax
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.models.resnet import ARCHITECTURES, Teacher
from memkd_jax.teachers import weights
from memkd_jax.teachers.extractor import DEMO_FILE, RANDOM, FeatureExtractor


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def normalized(images):
  mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  return (images / 255 - mean) / deviation


def test_images_are_normalized_as_imagenets(images):
  found = FeatureExtractor('tiny_basic', RANDOM).normalize(images)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, normalized(images), atol=1e-5)
  half = FeatureExtractor('tiny_basic', RANDOM, 'bfloat16').normalize(images)
  assert half.dtype == 'bfloat16'
  np.testing.assert_allclose(half.astype(np.float32), normalized(images), atol=2e-2)


@pytest.mark.parametrize('arch', ['tiny_basic', 'tiny_bottleneck'])
def test_shapes_strides_and_channels_are_those_of_the_features(images, arch):
  extractor = FeatureExtractor(arch, RANDOM)
  features = jax.jit(extractor, static_argnums=2)(extractor.params, images, 4)
  expected = jax.jit(Teacher(arch, stages=4).apply)(
    {'params': weights.random_teacher(arch)}, normalized(images).astype(np.float32)
  )
  shapes = extractor.shapes((64, 64), 4)
  for stage, (found, of_teacher, shape) in enumerate(
    zip(features, expected, shapes, strict=True), start=1
  ):
    np.testing.assert_allclose(found, of_teacher, atol=1e-4)
    assert (found.shape[1:], found.dtype) == (shape.shape[1:], shape.dtype)
    assert shape.shape[0] == 1
    side = 64 // extractor.stride(stage)
    assert found.shape == (2, side, side, extractor.channels(stage))
    assert extractor.channels(stage) == ARCHITECTURES[arch].channels(stage)
  assert extractor.stride(4) == extractor.MULTIPLE
  assert extractor.shapes((64, 64)) == shapes[:3]
  assert len(jax.eval_shape(extractor, extractor.params, images)) == 3


@pytest.mark.parametrize('stages', [(1, 2, 3), (1, 2, 3, 4)])
def test_a_file_is_known_by_its_content(tmp_path, stages):
  params = weights.random_teacher('tiny_basic', seed=5)
  kept = {n: p for n, p in params.items() if n == 'stem' or int(n[-1]) in stages}
  path = tmp_path / 'teacher.safetensors'
  weights.save_teacher(path, 'tiny_basic', kept, {})
  extractor = FeatureExtractor('tiny_basic', str(path))
  assert extractor.depth == len(stages)
  assert extractor.digest == weights.sha256(path)
  assert extractor.notes == []
  jax.tree.map(np.testing.assert_array_equal, extractor.params, kept)
  with pytest.raises(UserError, match=r'holds a tiny_basic, but --config\.model\.backbone'):
    FeatureExtractor('tiny_bottleneck', str(path))
  with pytest.raises(UserError, match='There is no teacher at'):
    FeatureExtractor('tiny_basic', str(tmp_path / 'gone.safetensors'))


def test_a_random_teacher_says_so():
  extractor = FeatureExtractor('tiny_basic', RANDOM)
  assert (extractor.digest, extractor.depth) == ('random', 4)
  (note,) = extractor.notes
  assert note == 'The teacher is random, not pretrained: THESE FIGURES MEAN NOTHING.'


def test_the_demos_teacher_says_so():
  extractor = FeatureExtractor('resnet18', str(DEMO_FILE.absolute()))
  assert extractor.depth == 3
  assert len(extractor.digest) == 64
  (note,) = extractor.notes
  assert note.startswith('The teacher is the small one of the demo')


def test_float64_needs_x64():
  with pytest.raises(UserError, match='JAX_ENABLE_X64'):
    FeatureExtractor('tiny_basic', RANDOM, 'float64')
  with jax.enable_x64(True):
    extractor = FeatureExtractor('tiny_basic', RANDOM, 'float64')
    assert {leaf.dtype.name for leaf in jax.tree.leaves(extractor.params)} == {'float64'}
    assert {shape.dtype.name for shape in extractor.shapes((32, 32))} == {'float64'}


def test_its_parameters_are_of_its_dtype():
  extractor = FeatureExtractor('tiny_basic', RANDOM, 'bfloat16')
  leaves = jax.tree.leaves(extractor.params)
  assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
  assert {leaf.dtype.name for leaf in leaves} == {'bfloat16'}
  assert {shape.dtype.name for shape in extractor.shapes((32, 32))} == {'bfloat16'}
