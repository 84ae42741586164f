import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax.data.images import read_image
from memkd_jax.detector import load_all
from memkd_jax.errors import UserError
from memkd_jax.evaluate import score_images
from memkd_jax.methods.distillation import System
from memkd_jax.methods.trained import final_state
from memkd_jax.run import run_config


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_config, make_category):
  """A trained run whose normal images were held out in part."""
  root = tmp_path_factory.mktemp('detector')
  make_category(root / 'data', train=12)
  config = make_config(root / 'data')
  config.train.epochs = 2
  config.train.holdout = 0.25
  results = run_config(config, root / 'run')
  assert results['counts']['bolt']['train'] == 9
  return root, config


@pytest.fixture(scope='module')
def images(run):
  paths = sorted((run[0] / 'data' / 'bolt' / 'test').rglob('*.png'))
  return [np.asarray(Image.open(path)) for path in paths]


def test_scores_are_those_of_the_evaluation(run, images, one_device):
  root, config = run
  detector = memkd_jax.load(root / 'run')
  result = detector(images)
  system = System(config, one_device)
  folder = root / 'run' / 'bolt' / 'seed_0'
  state, _ = final_state(system, 'bolt', 0, np.stack(images), folder)
  maps, scores = score_images(system, state, np.stack(images))
  np.testing.assert_allclose(result.maps, maps, rtol=1e-5)
  np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
  assert result.maps.dtype == result.scores.dtype == np.float32


def test_calibrated_on_images_that_were_held_out(run):
  root, _ = run
  detector = memkd_jax.load(root / 'run', category='bolt', false_alarm_rate=0.25)
  held = detector.calibration.scores
  assert len(held) == 3
  paths = sorted((root / 'data' / 'bolt' / 'train' / 'good').glob('*.png'))
  scores = detector([np.asarray(Image.open(path)) for path in paths]).scores
  for score in held:
    assert np.isclose(scores, score, rtol=1e-4).any()
  result = detector([np.asarray(Image.open(path)) for path in paths])
  np.testing.assert_array_equal(result.decisions, result.p_values <= 0.25)


def test_one_by_one_equals_batches_of_any_size(run, images):
  detector = memkd_jax.load(run[0] / 'run')
  together = detector(images[:5])  # a batch of four, and one
  alone = [detector([image]) for image in images[:5]]
  np.testing.assert_allclose(together.maps, np.concatenate([r.maps for r in alone]), rtol=1e-5)


def test_images_of_any_size_are_resized_as_files_are(run, images, tmp_path, rng):
  detector = memkd_jax.load(run[0] / 'run')
  large = rng.integers(0, 256, (50, 40, 3), np.uint8)
  Image.fromarray(large).save(tmp_path / 'large.png')
  square, _ = read_image(tmp_path / 'large.png', 32)
  np.testing.assert_array_equal(detector([large]).maps, detector([square]).maps)
  grey = large[..., 0]
  np.testing.assert_array_equal(
    detector([grey]).scores, detector([np.stack([grey] * 3, -1)]).scores
  )
  assert detector([]).maps.shape == (0, 32, 32)
  for wrong in (large.astype(float), large[..., :2], large[:0]):
    with pytest.raises(UserError, match=r'give uint8 \[H, W, 3\]'):
      detector([wrong])


def test_what_cannot_be_loaded(run, tmp_path):
  root, _ = run
  for arguments, message in (
    ({'workdir': tmp_path}, 'holds no run'),
    ({'category': 'nut'}, 'these categories: bolt; nut is not among them'),
    ({'seed': 7}, 'these categories: none'),
    ({'false_alarm_rate': 0.01}, '3 held-out images support no false-alarm rate below 0.25'),
    ({'false_alarm_rate': 2}, 'between 0 and 1'),
  ):
    with pytest.raises(UserError, match=message):
      memkd_jax.load(**{'workdir': root / 'run'} | arguments)


def test_metrics_need_no_jax():
  code = 'import sys, memkd_jax.metrics; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_models_of_a_run_share_teacher_and_programs(run, images):
  root, _ = run
  copy = root / 'two'
  shutil.copytree(root / 'run', copy)
  shutil.copytree(copy / 'bolt', copy / 'nut')
  bolt, nut = load_all(copy)
  assert (bolt.category, nut.category) == ('bolt', 'nut')
  assert bolt.system is nut.system
  np.testing.assert_array_equal(bolt(images).maps, nut(images).maps)
  with pytest.raises(UserError, match='these categories: none'):
    load_all(copy, seed=3)
  (copy / 'nut' / 'seed_0' / 'calibration.json').unlink()
  with pytest.raises(UserError, match=r'nut/seed_0 has no threshold'):
    load_all(copy, false_alarm_rate=0.5)
