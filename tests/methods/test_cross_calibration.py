"""Scores of all normal images, each by a model that has not seen it."""

import json

import jax
import numpy as np
import pytest
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

import memkd_jax
from memkd_jax import methods
from memkd_jax.config import VALIDATION
from memkd_jax.configs import folder as folder_config
from memkd_jax.data.sampling import CALIBRATIONS, calibration_plan
from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError
from memkd_jax.evaluate import Scorer
from memkd_jax.methods.base import Fitted, Task
from memkd_jax.methods.cross_calibration import cross_scores, discard
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.scoring.pipeline import Pipeline

pytestmark = pytest.mark.newest

TASK = Task.of_category('tile', 0)


class Mean:
  """The mean image; an image's distance to it is its score. Counts what it is asked for."""

  def __init__(self, stop_at=None):
    self.names, self.stop_at = [], stop_at

  def fit(self, task, images, folder):
    self.names.append(task.name)
    if self.stop_at == len(self.names):
      raise interrupt.Interrupted('SIGINT')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'checkpoints').mkdir(exist_ok=True)
    return Fitted({'mean': images.mean(axis=0)}, {})

  @staticmethod
  def score(params, images):
    maps = np.abs(images - params['mean']).mean(axis=-1).astype(np.float32)
    return maps, maps.max(axis=(1, 2)), {}


Mean.score.tiling = Tiling((8, 8))  # as a Scorer has


@pytest.fixture
def images(rng):
  return rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folds():
  return calibration_plan(0, 'tile', 10, 0.0, 'folds', 4).folds


def test_each_image_is_scored_without_it(images, folds, tmp_path, capsys):
  method = Mean()
  maps, scores, statistics = cross_scores(method, method.score, TASK, images, folds, tmp_path)
  assert statistics is None
  for i, image in enumerate(images):
    (fold,) = [fold for fold in folds if i in fold]
    others = [images[j] for j in range(10) if j not in fold]
    expected = np.abs(image - np.mean(others, axis=0)).mean(axis=-1)
    np.testing.assert_allclose(maps[i], expected, rtol=1e-5)
    np.testing.assert_allclose(scores[i], expected.max(), rtol=1e-5)
  assert method.names == [f'tile, fold {k} of 4' for k in (1, 2, 3, 4)]
  assert capsys.readouterr().out == (
    'tile: 10 normal images are too few to hold some out: 4 further models are trained for '
    'the threshold (about 4 times the time)\n'
  )
  assert not list(tmp_path.rglob('checkpoints'))


def test_finished_folds_are_not_repeated(images, folds, tmp_path, capsys):
  whole = cross_scores(Mean(), Mean.score, TASK, images, folds, tmp_path / 'whole')
  stopped = Mean(stop_at=3)
  with pytest.raises(interrupt.Interrupted):
    cross_scores(stopped, Mean.score, TASK, images, folds, tmp_path / 'run')
  resumed = Mean()
  capsys.readouterr()
  found = cross_scores(resumed, Mean.score, TASK, images, folds, tmp_path / 'run')
  assert resumed.names == ['tile, fold 3 of 4', 'tile, fold 4 of 4']
  assert '4 further models' in capsys.readouterr().out
  np.testing.assert_array_equal(found.maps, whole.maps)
  np.testing.assert_array_equal(found.scores, whole.scores)

  again = Mean()
  cross_scores(again, Mean.score, TASK, images, folds, tmp_path / 'run')
  assert again.names == [] and capsys.readouterr().out == ''

  # What is damaged, or of other images, is made again.
  path = tmp_path / 'run' / 'folds' / '2' / 'model.json'
  path.write_text(path.read_text().replace('train_sha256', 'other'))
  cross_scores(again, Mean.score, TASK, images, folds, tmp_path / 'run')
  assert again.names == ['tile, fold 2 of 4']
  images[folds[0][0]] = 0  # of which the first fold's model has not learned
  cross_scores(again, Mean.score, TASK, images, folds, tmp_path / 'run')
  assert again.names == [f'tile, fold {k} of 4' for k in (2, 2, 3, 4)]

  for _ in range(2):
    discard(tmp_path / 'run')
    assert list((tmp_path / 'run').iterdir()) == []


@pytest.fixture
def knn_config(tiny_config):
  config = methods.get_config('folder', 'knn')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.eval.batch_size = 4
  config.method.share = 1.0  # all patches, so that nothing is drawn
  config.train.calibration = 'folds'
  return config


def test_nearest_neighbours_by_hand(knn_config, make_method, tmp_path, rng):
  """The scores of kNN are those of scikit-learn on loops over the folds."""
  devices = Devices(jax.devices()[:1])
  method = make_method(knn_config, devices)
  images = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
  folds = calibration_plan(0, 'tile', 6, 0.0, 'folds', 3).folds
  extractor = method._patches._extractor
  pipeline = Pipeline(extractor, method, **knn_config.anomaly_map.to_dict())
  scorer = Scorer(pipeline, Tiling((64, 64)), extractor.params, devices, 4)
  maps, scores, _ = cross_scores(method, scorer, TASK, images, folds, tmp_path)
  assert maps.shape == (6, 64, 64)

  features = [np.asarray(f) for f in extractor(extractor.params, images, 3)]
  fine, coarse = (
    ndimage.uniform_filter(f, (0, 3, 3, 0), mode='constant') for f in features[1:3]
  )
  twice = np.stack([jax.image.resize(c, (8, 8, c.shape[-1]), 'bilinear') for c in coarse])
  patches = np.concatenate([fine, twice], -1).reshape(6, 64, -1)
  for fold in folds:
    others = np.concatenate([patches[i] for i in range(6) if i not in fold])
    for i in fold:
      distance, _ = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(patches[i])
      np.testing.assert_allclose(scores[i], distance.max(), rtol=1e-3)


def test_a_run_of_few_images(knn_config, tmp_path, make_category, monkeypatch, capsys):
  """The model has all images, the threshold is of all, and nothing of the folds is left."""
  make_category(tmp_path / 'data', train=12)
  knn_config.train.calibration, knn_config.train.holdout = 'auto', 0.1
  results = run_config(knn_config, tmp_path / 'run')
  assert results['counts']['bolt']['train'] == 12
  assert 'bolt: 12 normal images are too few to hold some out' in capsys.readouterr().out
  home = tmp_path / 'run' / 'bolt' / 'seed_0'
  assert not (home / 'folds').exists()
  detector = memkd_jax.load(tmp_path / 'run')
  assert detector.trained.train_images == len(detector.calibration.scores) == 12
  assert detector.threshold.value == detector.calibration.scores[-1]

  # Stopped after two folds, and gone on with.
  (home / 'model.json').unlink()
  (home / 'result.json').unlink()
  fits = []
  kind = type(detector.program.pipeline.method)
  fit = kind.fit

  def counted(self, task, images, folder):
    fits.append(task.name)
    if len(fits) == 3:
      raise interrupt.Interrupted('SIGTERM')
    return fit(self, task, images, folder)

  monkeypatch.setattr(kind, 'fit', counted)
  with pytest.raises(interrupt.Interrupted):
    run_config(knn_config, tmp_path / 'run')
  run_config(knn_config, tmp_path / 'run')
  assert fits[3:] == ['bolt, fold 3 of 4', 'bolt, fold 4 of 4', 'bolt']
  found = memkd_jax.load(tmp_path / 'run').calibration
  np.testing.assert_array_equal(found.scores, detector.calibration.scores)
  np.testing.assert_array_equal(found.pixels, detector.calibration.pixels)

  # Other maps: the further models are gone, and with them the threshold.
  knn_config.anomaly_map.sigma = 1.0
  capsys.readouterr()
  run_config(knn_config, tmp_path / 'run', 'evaluate')
  assert 'Note: the threshold of bolt was one of other maps' in capsys.readouterr().out
  assert memkd_jax.load(tmp_path / 'run').calibration is None


def test_folds_train_as_the_model_does(tiny_config, tmp_path, make_category):
  """With gradients, checkpoints and logs; those of the folds are not kept."""
  make_category(tmp_path / 'data', train=10)
  tiny_config.train.calibration, tiny_config.train.folds = 'folds', 2
  tiny_config.train.epochs = 2
  run_config(tiny_config, tmp_path / 'run')
  home = tmp_path / 'run' / 'bolt' / 'seed_0'
  assert not (home / 'folds').exists()
  assert json.loads((home / 'model.json').read_text())['train_images'] == 10
  assert len(memkd_jax.load(tmp_path / 'run').calibration.scores) == 10
  # A fold that cannot be trained ends as any training.
  tiny_config.train.epochs = 1
  results = run_config(tiny_config, tmp_path / 'other')
  assert 'bolt, fold 1 of 2: 5 images in 1 epochs fill no batch' in results['failed']['bolt']


def test_normalised_maps_of_few_images(knn_config, tmp_path, make_category):
  """Mean and spread are those of all images, each scored by a model without it."""
  make_category(tmp_path / 'data', train=12)
  raw, normalised = [], []
  for kind, found in (('none', raw), ('stage', normalised)):
    knn_config.anomaly_map.normalize, knn_config.anomaly_map.sigma = kind, 0.0
    run_config(knn_config, tmp_path / kind)
    found.append(memkd_jax.load(tmp_path / kind))
  (raw,), (normalised,) = raw, normalised
  usual = normalised.trained.statistics['stage0']
  assert raw.trained.statistics is None and usual['mean'].shape == (1, 1, 1)
  images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
  expected = (raw(images).maps - usual['mean']) / usual['spread']
  np.testing.assert_allclose(normalised(images).maps, expected, rtol=1e-3, atol=1e-3)
  # The method's own score, which is that of the nearest neighbour, stays as it is.
  np.testing.assert_allclose(normalised(images).scores, raw(images).scores, rtol=1e-6)
  np.testing.assert_allclose(normalised.calibration.scores, raw.calibration.scores, rtol=1e-6)
  assert usual['mean'].item() > raw.calibration.pixels.min()


def test_p_values_of_exchangeable_scores_are_valid(rng):
  """The share of new normal images with a p-value of at most r is r or less."""
  folds = calibration_plan(0, 'tile', 12, 0.0, 'folds', 4).folds
  p_values = []
  for _ in range(4000):
    images = rng.normal(size=(13, 3))
    normal, new = images[:12], images[12]
    scores = np.empty(12)
    for fold in folds:
      mean = np.delete(normal, fold, axis=0).mean(axis=0)
      scores[fold] = np.linalg.norm(normal[fold] - mean, axis=1)
    calibration = Calibration(np.sort(scores), np.zeros(51))
    p_values += list(calibration.p_values([np.linalg.norm(new - normal.mean(axis=0))]))
  for rate in (1 / 13, 0.1, 0.2, 0.4):
    assert np.mean(np.array(p_values) <= rate + 1e-9) < rate + 0.01


def test_a_task_is_named_in_errors(images, folds, tmp_path):
  class Failing(Mean):
    def fit(self, task, images, folder):
      raise UserError(f'{task.name}: no.')

  with pytest.raises(UserError, match='tile, fold 1 of 4: no'):
    cross_scores(Failing(), Mean.score, TASK, images, folds, tmp_path)


def test_the_fields():
  fields = {field.name: field for field in methods.fields('memkd')}
  assert fields['train.calibration'].choices == (*CALIBRATIONS, VALIDATION)
  assert methods.get_config().train.calibration == 'holdout'
  assert folder_config.get_config().train.calibration == 'auto'
  for name, value in (('calibration', 'none'), ('folds', 1), ('folds', 21)):
    config = methods.get_config()
    config.train[name] = value
    with pytest.raises(UserError, match=f'--config.train.{name}={value}: '):
      methods.resolve(config)
