import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import export, predict
from memkd_jax.data.images import read_image
from memkd_jax.data.tiling import Tiling
from memkd_jax.detector import load_all
from memkd_jax.errors import UserError
from memkd_jax.evaluate import Scorer
from memkd_jax.run import run_config
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers import weights
from memkd_jax.workdir import Workdir


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


def test_scores_are_those_of_the_evaluation(run, images, one_device, make_method):
  root, config = run
  detector = memkd_jax.load(root / 'run')
  result = detector(images)
  method = make_method(config, one_device)
  pipeline = Pipeline(method.extractor, method, **config.anomaly_map.to_dict())
  scorer = Scorer(pipeline, Tiling((32, 32)), method.extractor.params, one_device, 4)
  params = Workdir(root / 'run').read_model('bolt', 0).params
  maps, scores, _ = scorer(params, np.stack(images))
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
  square, _ = read_image(tmp_path / 'large.png', (32, 32))
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
    ({'category': 'nut'}, 'holds models of bolt; nut is not among them'),
    ({'seed': 7}, 'holds no model with seed'),
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
  (copy / 'bolt').rename(copy / 'nut')
  nut = Workdir(copy).read_model('nut', 0)
  shutil.copytree(root / 'run' / 'bolt', copy / 'bolt')
  Workdir(copy).write_model(dataclasses.replace(nut, name='nut'))
  bolt, nut = load_all(copy)
  assert (bolt.category, nut.category) == ('bolt', 'nut')
  assert bolt.program is nut.program
  np.testing.assert_array_equal(bolt(images).maps, nut(images).maps)
  with pytest.raises(UserError, match='holds no model with seed'):
    load_all(copy, seed=3)
  # An evaluation with other maps was stopped before it came to nut.
  trained = dataclasses.replace(
    bolt.trained, config=bolt.trained.config.copy_and_resolve_references()
  )
  trained.config.anomaly_map.sigma = 1.0
  Workdir(copy).write_model(trained)
  sharper, nut = load_all(copy)
  assert sharper.program is not nut.program
  assert not np.array_equal(sharper(images).maps, bolt(images).maps)
  np.testing.assert_array_equal(nut(images).maps, bolt(images).maps)
  Workdir(copy).write_calibration('nut', 0, None)
  with pytest.raises(UserError, match='nut has no held-out images to set a threshold'):
    load_all(copy, false_alarm_rate=0.5)


def test_two_files_are_a_model(run, images, tmp_path):
  """All else that a run leaves is of no account to what scores with it."""
  root, _ = run
  expected = memkd_jax.load(root / 'run', false_alarm_rate=0.25)(images)
  alone, copy = tmp_path / 'alone', tmp_path / 'run'
  alone.mkdir()
  for name in ('model.json', 'model.safetensors'):
    (copy / 'bolt' / 'seed_0').mkdir(parents=True, exist_ok=True)
    shutil.copy(root / 'run' / 'bolt' / 'seed_0' / name, alone)
    shutil.copy(root / 'run' / 'bolt' / 'seed_0' / name, copy / 'bolt' / 'seed_0')
  for folder in (alone, copy):
    detector = memkd_jax.load(folder, false_alarm_rate=0.25)
    assert (detector.category, detector.method, detector.image_size) == (
      'bolt',
      'MemKD',
      (32, 32),
    )
    result = detector(images)
    for name in ('maps', 'scores', 'p_values', 'decisions'):
      np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    assert [d.category for d in load_all(folder)] == ['bolt']
    out = tmp_path / f'{folder.name}.memkd'
    assert export.main([f'--workdir={folder}', f'--out={out}']) == 0
    image = str(next((root / 'data' / 'bolt' / 'test').rglob('*.png')))
    assert predict.main([f'--workdir={folder}', '--json', image]) == 0
  assert memkd_jax.load(alone, 'bolt', seed=0).category == 'bolt'
  for other in ({'category': 'nut'}, {'seed': 7}):
    with pytest.raises(UserError, match=r'alone holds bolt with seed 0 alone; leave'):
      memkd_jax.load(alone, **other)


def test_another_teacher_is_refused(run, tmp_path):
  root, _ = run
  folder = Workdir(tmp_path)
  trained = Workdir(root / 'run').read_model('bolt', 0)
  weights.save_teacher(tmp_path / 'a', 'tiny_basic', weights.random_teacher('tiny_basic'), {})
  trained.config.model.teacher_weights = str(tmp_path / 'a')
  folder.write_model(dataclasses.replace(trained, teacher_sha256='0' * 64))
  with pytest.raises(UserError, match=r'a is not the teacher that bolt was trained with'):
    memkd_jax.load(tmp_path)
  digest = weights.sha256(tmp_path / 'a')
  folder.write_model(dataclasses.replace(trained, teacher_sha256=digest))
  moved = (tmp_path / 'a').rename(tmp_path / 'b')
  with pytest.raises(UserError, match=r'There is no teacher at .*/a'):
    memkd_jax.load(tmp_path)
  assert memkd_jax.load(tmp_path, teacher_weights=moved).category == 'bolt'


def test_no_training_is_needed_to_score(run):
  """Neither optimizer nor checkpoints are even imported."""
  root, _ = run
  code = (
    f'import sys, memkd_jax, numpy; detector = memkd_jax.load({str(root / "run")!r}); '
    'detector(numpy.zeros((1, 32, 32, 3), numpy.uint8)); '
    'print([n for n in sys.modules if n.partition(".")[0] in ("optax", "orbax")])'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert result.stdout.strip().endswith('[]'), result.stdout + result.stderr


def test_one_image_gives_one_result_however_it_is_passed(run, tmp_path, rng):
  detector = memkd_jax.load(run[0] / 'run')
  array = rng.integers(0, 256, (40, 60, 3), np.uint8)
  Image.fromarray(array).save(tmp_path / 'x.png')
  expected = detector([array])
  alpha = np.full((40, 60, 1), 9, np.uint8)
  for image in (
    array,
    np.concatenate([array, alpha], -1),
    Image.fromarray(array),
    Image.fromarray(array).convert('RGBA'),
    tmp_path / 'x.png',
    str(tmp_path / 'x.png'),
    [tmp_path / 'x.png'],
  ):
    np.testing.assert_array_equal(detector(image).maps, expected.maps)
  grey = array[..., 0]
  expected = detector([grey])
  for image in (grey, grey[..., None], Image.fromarray(grey), grey.astype(np.uint16) * 257):
    np.testing.assert_array_equal(detector(image).maps, expected.maps)
  assert detector(np.full((120, 160, 3), 200, np.uint8)).scores.shape == (1,)


def test_several_images_in_an_array(run, rng):
  detector = memkd_jax.load(run[0] / 'run')
  for shape in ((5, 40, 60), (5, 40, 60, 1), (5, 40, 60, 3), (3, 40, 60, 4)):
    images = rng.integers(0, 256, shape, np.uint8)
    result = detector(images)
    assert len(result.scores) == shape[0]
    np.testing.assert_array_equal(result.maps, detector(list(images)).maps)
  assert len(detector(list(rng.integers(0, 256, (3, 40, 60), np.uint8))).scores) == 3


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (
      np.zeros((3, 40, 60), np.uint8),
      r'channels come first, or 3 grey ones: pass np\.moveaxis',
    ),
    ([np.zeros((3, 40, 60), np.uint8)], r'np\.moveaxis\(image, 0, -1\)'),
    (np.zeros((40, 60, 3), np.float32), r'float32 .*astype\(np\.uint8\)'),
    (Image.fromarray(np.zeros((40, 60), np.float32)), 'floating-point'),
    (np.zeros((40, 60, 3), np.int64), r'int64 \[40, 60, 3\]; give uint8'),
    (np.zeros((2, 2, 40, 60, 3), np.uint8), r'an array \[2, 2, 40, 60, 3\]'),
    (np.zeros(3, np.uint8), r'an array \[3\]'),
    (b'\x89PNG', 'is bytes; give arrays'),
    ({'image': 1}, r"An object is \{'image'\}; give the paths of its files"),
    (7, 'is int; give arrays'),
    ([[0, 1], [2, 3]], 'is list; give arrays'),
    ('none.png', r'none\.png is not a readable image'),
  ],
)
def test_what_is_no_image_is_refused_with_the_remedy(run, images, message):
  with pytest.raises(UserError, match=message):
    memkd_jax.load(run[0] / 'run')(images)
