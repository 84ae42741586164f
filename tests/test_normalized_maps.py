"""A run whose maps are normalised: from its held-out images to every way of using the model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax.data.sampling import calibration_plan
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.scoring import normalization
from memkd_jax.scoring.anomaly_map import combine_maps
from memkd_jax.workdir import read_model_folder
from memkd_jax.workdir.model import write_model

pytestmark = pytest.mark.newest

KINDS = ('stage', 'position')


@pytest.fixture(scope='module')
def config(tmp_path_factory, make_quick_config, make_category):
  data = tmp_path_factory.mktemp('data')
  make_category(data, train=14)
  config = make_quick_config(data)
  config.train.holdout = 0.3
  config.anomaly_map.image_score = 'top'  # its own score kNN makes of the maps that it gave
  return config


@pytest.fixture(scope='module')
def run_of(config, tmp_path_factory):
  """Gives the folder of a finished run, by how its maps are normalised."""
  folders = {}
  for kind in KINDS:
    folders[kind] = tmp_path_factory.mktemp(kind)
    of_kind = config.copy_and_resolve_references()
    of_kind.anomaly_map.normalize = kind
    run_config(of_kind, folders[kind])
  return folders


@pytest.fixture
def own(config):
  """A copy of the config that a test may change."""
  return config.copy_and_resolve_references()


def held_out_images(config):
  files = sorted(Path(config.data.dir, 'bolt', 'train', 'good').iterdir())
  held = calibration_plan(0, 'bolt', 14, 0.3, 'holdout', 4).held
  assert len(held) == 4
  return np.stack([np.asarray(Image.open(files[i])) for i in held])


def stage_maps(detector, images):
  program = detector.program
  maps = program.pipeline.stage_maps(detector.trained.params, program.teacher_params, images)
  return {k: np.asarray(x) for k, x in maps.items()}


def finished(normalized):
  """Maps and scores from normalised maps of stages."""
  maps = np.asarray(combine_maps(normalized, (32, 32)))
  return maps, np.sort(maps.reshape(len(maps), -1))[:, -10:].mean(1)


@pytest.mark.parametrize('kind', KINDS)
def test_the_statistics_are_those_of_the_held_out_images(config, run_of, kind):
  detector = memkd_jax.load(run_of[kind])
  expected = normalization.measure(stage_maps(detector, held_out_images(config)), kind)
  found = detector.trained.statistics
  assert found.keys() == expected.keys()
  for stage, usual in expected.items():
    for name, values in usual.items():
      np.testing.assert_allclose(found[stage][name], values, rtol=1e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_new_images_are_normalised_by_them(run_of, rng, kind):
  detector = memkd_jax.load(run_of[kind])
  images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
  raw = stage_maps(detector, images)
  maps, scores = finished(normalization.normalize(raw, detector.trained.statistics))
  result = detector(images)
  np.testing.assert_allclose(result.maps, maps, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(result.scores, scores, rtol=1e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_the_threshold_is_of_images_that_do_not_count_among_the_usual(config, run_of, kind):
  detector = memkd_jax.load(run_of[kind])
  raw = stage_maps(detector, held_out_images(config))
  expected = []
  for i in range(4):
    others = normalization.measure({k: np.delete(x, i, 0) for k, x in raw.items()}, kind)
    of_image = {k: x[i : i + 1] for k, x in raw.items()}
    expected.append(finished(normalization.normalize(of_image, others))[1].item())
  np.testing.assert_allclose(detector.calibration.scores, sorted(expected), rtol=1e-2)


def test_an_evaluation_measures_anew(own, run_of, tmp_path):
  """With another kind, or with none; equal to a run that was fitted so."""
  own.anomaly_map.normalize = 'stage'
  run_config(own, tmp_path)
  model = tmp_path / 'bolt' / 'seed_0'
  for kind in ('none', 'position'):
    own.anomaly_map.normalize = kind
    run_config(own, tmp_path, 'evaluate')
    trained = read_model_folder(model)
    assert trained.config.anomaly_map.normalize == kind
    if kind == 'none':
      assert trained.statistics is None
  other = read_model_folder(run_of['position'] / 'bolt' / 'seed_0')
  for name, values in other.statistics['stage0'].items():
    np.testing.assert_allclose(trained.statistics['stage0'][name], values, rtol=1e-5)
  np.testing.assert_allclose(trained.calibration.scores, other.calibration.scores, rtol=1e-4)


def test_other_maps_keep_the_statistics_where_no_images_are_held_out(own, tmp_path):
  """Those of further models are gone with them."""
  own.train.holdout, own.train.calibration = 0.0, 'folds'
  own.anomaly_map.normalize = 'stage'
  run_config(own, tmp_path)
  before = memkd_jax.load(tmp_path)
  assert len(before.calibration.scores) == 14
  own.anomaly_map.sigma = 1.0
  run_config(own, tmp_path, 'evaluate')
  after = memkd_jax.load(tmp_path)
  assert after.calibration is None  # it was one of other maps
  for name, values in before.trained.statistics['stage0'].items():
    np.testing.assert_array_equal(after.trained.statistics['stage0'][name], values)
  own.anomaly_map.normalize = 'position'
  failed = run_config(own, tmp_path, 'evaluate')['failed']['bolt']
  assert 'anomaly_map.normalize=position: of bolt no normal images are held out' in failed
  assert 'train anew with --force' in failed
  run_config(own, tmp_path, force=True)
  assert memkd_jax.load(tmp_path).trained.config.anomaly_map.normalize == 'position'


def test_too_few_held_out_images_leave_all_as_it_was(own, tmp_path):
  """None at all are told before the folder is touched, and too few before a model is gone."""
  own.train.holdout = 0.0
  run_config(own, tmp_path / 'none')
  before = {path: path.read_bytes() for path in (tmp_path / 'none').rglob('*.json')}
  own.anomaly_map.normalize = 'stage'
  for mode in ('evaluate', 'train'):
    with pytest.raises(
      UserError, match=r'normalize=stage: .*holdout=0\.1, in another --workdir'
    ):
      run_config(own, tmp_path / 'none', mode, force=mode == 'train')
  assert {path: path.read_bytes() for path in (tmp_path / 'none').rglob('*.json')} == before

  own.train.holdout, own.anomaly_map.normalize = 0.1, 'none'  # of 14 images
  run_config(own, tmp_path / 'one')
  own.anomaly_map.normalize = 'stage'
  for mode in ('evaluate', 'train'):
    failed = run_config(own, tmp_path / 'one', mode, force=mode == 'train')['failed']['bolt']
    assert 'normalize=stage' in failed and 'bolt has 1 of them where 3 are needed' in failed
  assert memkd_jax.load(tmp_path / 'one').trained.config.anomaly_map.normalize == 'none'


def test_missing_statistics_are_damage(run_of, tmp_path):
  trained = read_model_folder(run_of['stage'] / 'bolt' / 'seed_0')
  write_model(tmp_path, dataclasses.replace(trained, statistics=None))
  with pytest.raises(UserError, match='the statistics of its maps are missing'):
    memkd_jax.load(tmp_path)
