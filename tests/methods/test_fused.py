"""A detector of each picture of an object, as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_runs import tiny_of

from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.methods.base import Task
from memkd_jax.methods.distillation import numbered
from memkd_jax.methods.fused import Fused, OneStudent
from memkd_jax.methods.knn import NearestNeighbours
from memkd_jax.methods.losses import distillation_loss
from memkd_jax.scoring import normalization
from memkd_jax.scoring.anomaly_map import combine_maps, seen_positions
from memkd_jax.scoring.held_out import Part, _counting
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor

pytestmark = pytest.mark.newest

TASK = Task.of_category('bagel', 0)


@pytest.fixture
def canvases(rng):
  """Photographs and depth of 9 objects; of depth the left half was not read."""
  images = rng.integers(0, 256, (9, 32, 32, 8), np.uint8)
  images[..., 3] = images[..., 7] = 255
  images[..., :16, 7] = 0
  return images


@pytest.fixture
def fused(make_config, tmp_path, one_device):
  config = tiny_of('knn', make_config(tmp_path), **{'data.inputs': ('rgb', 'depth')})
  config.data.dataset, config.method.share = 'mvtec_3d', 0.5
  config = methods.resolve(config)
  extractor = FeatureExtractor(config.model.backbone, config.model.teacher_weights)
  return methods.create(config, extractor, one_device), config


def test_each_picture_has_a_memory_of_its_own(fused, canvases, tmp_path):
  method, config = fused
  assert isinstance(method, Fused)
  assert method.name.endswith(' of rgb + depth')
  params = method.fit(TASK, canvases, tmp_path).params
  alone = NearestNeighbours(config, method._extractor, method._devices)
  images, raw = canvases[:4], {}
  for number, name in enumerate(('rgb', 'depth')):
    own = np.ascontiguousarray(canvases[..., 4 * number : 4 * number + 4])
    fitted = alone.fit(Task(f'bagel, {name}', 0, (), ()), own, tmp_path / 'alone')
    jax.tree.map(np.testing.assert_array_equal, fitted.params, params[name])
    features = method._extractor(method._extractor.params, own, 3)
    raw[number] = np.asarray(alone.maps(fitted.params, features, own)[0])
    # Of training images, where the picture counts.
    seen = np.asarray(seen_positions(own[..., 3] > 0, raw[number].shape[1:]))
    usual = params['usual'][f'map{number}']
    assert usual['mean'] == pytest.approx(raw[number][seen].mean(), rel=1e-4)
    assert usual['deviation'] == pytest.approx(raw[number][seen].std(), rel=1e-3)

  features = method._extractor(method._extractor.params, jnp.asarray(images), 3)
  assert features[0].shape[0] == 8
  maps = method.maps(params, features, images)
  for number in (0, 1):
    usual = params['usual'][f'map{number}']
    expected = (raw[number][:4] - usual['mean']) / usual['deviation']
    np.testing.assert_allclose(maps[number], expected, atol=0.01)  # of zeros roots of rounding


@pytest.mark.parametrize('combine', ['sum', 'max'])
def test_what_was_not_read_says_nothing(fused, canvases, tmp_path, combine):
  method, _ = fused
  params = method.fit(TASK, canvases, tmp_path).params
  pipeline = Pipeline(method._extractor, method, combine=combine, sigma=0.0)
  teacher = method._extractor.params
  maps = pipeline.stage_maps(params, teacher, canvases[:2])
  shown = {0: np.asarray(maps[0]), 1: np.asarray(maps[1]).copy()}
  assert np.abs(shown[1][:, :, : shown[1].shape[2] // 2]).max() > 0
  shown[1][:, :, : shown[1].shape[2] // 2] = 0  # the left half
  expected = combine_maps(shown, (32, 32), combine=combine, sigma=0.0)
  found, scores = pipeline.score(params, teacher, canvases[:2])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(scores, expected.max((1, 2)), rtol=1e-5)


def test_units_of_held_out_images(fused, canvases, tmp_path):
  method, _ = fused
  params = method.fit(TASK, canvases, tmp_path).params
  teacher = method._extractor.params
  pipeline = Pipeline(method._extractor, method, sigma=0.0, normalize='stage')
  raw = {
    k: np.asarray(x) for k, x in pipeline.stage_maps(params, teacher, canvases[:3]).items()
  }
  counting = _counting(raw, Part(lambda: params, canvases[:3]))
  half = raw[1].shape[2] // 2
  assert counting[1].mask[..., :half].all() and not counting[1].mask[..., half:].any()
  assert not np.ma.getmaskarray(counting[0]).any()
  statistics = normalization.measure(counting, 'stage')
  assert statistics['stage1']['mean'].item() == pytest.approx(
    raw[1][..., half:].mean(), abs=1e-5
  )
  found, _ = pipeline.score(params, teacher, canvases[:2], statistics)
  shown = {
    k: (x[:2] - raw[k][..., k * half :].mean()) / raw[k][..., k * half :].std()
    for k, x in raw.items()
  }
  shown[1][..., :half] = 0
  expected = combine_maps(shown, (32, 32), sigma=0.0)
  np.testing.assert_allclose(found, expected, atol=0.01)  # roots of rounding


def test_a_picture_that_is_done_is_not_fitted_again(fused, canvases, tmp_path, monkeypatch):
  method, _ = fused
  names = []
  fit = NearestNeighbours.fit

  def stopped(self, task, *given):
    names.append(task.name)
    if len(names) == 2:
      raise KeyboardInterrupt
    return fit(self, task, *given)

  monkeypatch.setattr(NearestNeighbours, 'fit', stopped)
  with pytest.raises(KeyboardInterrupt):
    method.fit(TASK, canvases, tmp_path)
  method.fit(TASK, canvases, tmp_path)
  assert names == ['bagel, rgb', 'bagel, depth', 'bagel, depth']


@pytest.mark.parametrize(('method', 'options'), [('spade', {}), ('knn', {'method.share': 1.0})])
def test_maps_without_a_unit_are_refused(make_config, tmp_path, one_device, method, options):
  config = tiny_of(
    method, make_config(tmp_path), **{'data.inputs': ('rgb', 'depth')}, **options
  )
  config.data.dataset = 'mvtec_3d'
  config = methods.resolve(config)
  extractor = FeatureExtractor(config.model.backbone, config.model.teacher_weights)
  with pytest.raises(UserError, match=r'finds its training images again.*normalize=stage'):
    methods.create(config, extractor, one_device)
  config.anomaly_map.normalize = 'stage'
  assert isinstance(methods.create(config, extractor, one_device), Fused)


def test_patchcore_memorizes_what_it_keeps_whole(make_config, tmp_path, one_device):
  config = tiny_of('patchcore', make_config(tmp_path), **{'method.share': 1.0})
  extractor = FeatureExtractor(config.model.backbone, config.model.teacher_weights)
  for most, memorizes in ((0, True), (64, False)):
    config.method.most = most
    assert methods.create(methods.resolve(config), extractor, one_device).memorizes is memorizes


def test_objects_that_a_picture_does_not_show_are_left_out_of_it(fused, canvases, tmp_path):
  method, _ = fused
  expected = method.fit(TASK, canvases[:6], tmp_path / 'six').params
  canvases[6:, ..., 4:] = 0
  found = method.fit(TASK, canvases, tmp_path / 'all').params
  jax.tree.map(np.testing.assert_array_equal, found['depth'], expected['depth'])
  usual, alone = found['usual']['map1'], expected['usual']['map1']
  assert usual['mean'] == pytest.approx(alone['mean'], rel=1e-5)
  assert usual['deviation'] == pytest.approx(alone['deviation'], rel=1e-5)
  canvases[..., 7] = 0
  with pytest.raises(UserError, match=r'of depth nothing counts.*--config\.data\.inputs=rgb,'):
    method.fit(TASK, canvases, tmp_path / 'none')


def test_one_student_learns_from_kept_features_as_from_computed_ones(
  canvases, make_config, tmp_path, one_device
):
  options = {'data.inputs': ('rgb', 'depth'), 'model.joint_bottleneck': True}
  config = tiny_of('memkd', make_config(tmp_path), **options)
  config.data.dataset = 'mvtec_3d'
  config = methods.resolve(config)
  extractor = FeatureExtractor(config.model.backbone, config.model.teacher_weights)
  method = methods.create(config, extractor, one_device)
  assert isinstance(method, OneStudent) and method.name.endswith('rgb + depth, one bottleneck')
  trainer = method._member.trainer
  kept = trainer.teacher.cache(canvases)
  indices = np.array([4, 0, 7])
  found = trainer.teacher.of_batch(None, jax.tree.map(lambda x: x[0], kept.draw(indices)), 3)
  expected = extractor(extractor.params, canvases[indices], len(found))
  for x, y in zip(found, expected, strict=True):
    assert x.shape[0] == 6
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  assert extractor.feature_bytes(canvases, len(found)) == sum(
    len(canvases) // 3 * x.nbytes for x in found
  )

  # The loss that may end a training is the mean over all pictures of all images.
  state = trainer.init_state(TASK, canvases)
  watched = trainer._watched_loss(trainer, canvases, one_device.replicate(state))
  features = extractor(extractor.params, canvases, 3)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  distilled = method._member.distiller.apply(variables, None, features)
  kd = distillation_loss(numbered(features), distilled.features, config.loss.kd)
  assert watched == pytest.approx(float(sum(kd.values())), rel=1e-4)
