"""One model for all categories, from the config to thresholds of each."""

import json

import jax
import numpy as np
import pytest
from whole_runs import tiny_of

import memkd_jax
from memkd_jax import calibrate, export, methods, predict, worker
from memkd_jax.configs import joint as joint_config
from memkd_jax.data.sampling import calibration_plan, joint_plans
from memkd_jax.errors import UserError
from memkd_jax.files.digest import images_digest
from memkd_jax.methods import joint
from memkd_jax.methods.joint import pool
from memkd_jax.methods.knn import NearestNeighbours
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]

SIZES = {'bolt': 12, 'nut': 8, 'washer': 30}


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_category):
  root = tmp_path_factory.mktemp('joint') / 'data'
  for category, number in SIZES.items():
    make_category(root, category, train=number, good=3, bad=3)
  return root


@pytest.fixture
def config_of(make_config, data):
  def config_of(method='knn', **options):
    options = {'data.categories': 'all', 'train.scope': 'joint'} | options
    if method == 'memkd':
      options = {'train.epochs': 1, 'train.batch_size': 8} | options
    return tiny_of(method, make_config(data), **options)

  return config_of


@pytest.mark.parametrize(
  ('method', 'calibration'),
  [
    ('knn', 'folds'),
    ('padim', 'holdout'),
    pytest.param('memkd', 'holdout', marks=pytest.mark.slow),
  ],
)
def test_all_categories_have_one_model_and_thresholds_of_their_own(
  method, calibration, config_of, tmp_path, monkeypatch
):
  fits = []
  fit = worker.joint.tile_models.fit

  def fit_seen(method, tiling, task, images, *given):
    numbers = np.bincount(task.owners).tolist()
    fits.append((task.name, len(images), numbers))
    return fit(method, tiling, task, images, *given)

  monkeypatch.setattr(worker.joint.tile_models, 'fit', fit_seen)
  options = {'method.channels': 9} if method == 'padim' else {}
  options |= {'train.calibration': calibration, 'train.folds': 2, 'train.holdout': 0.25}
  workdir = tmp_path / 'run'
  results = run_config(config_of(method, **options), workdir)
  assert not results['failed'], results['failed']
  assert list(results['categories']) == list(SIZES)
  models = {name: Workdir(workdir).read_model(name, 0) for name in SIZES}
  bolt = models['bolt']
  for name, model in models.items():
    jax.tree.map(np.testing.assert_array_equal, model.params, bolt.params)
    assert (model.train_sha256, model.train_images) == (bolt.train_sha256, bolt.train_images)
    scores = model.calibration.scores
    held = SIZES[name] if calibration == 'folds' else round(0.25 * SIZES[name])
    assert len(scores) == held
  thresholds = {tuple(m.calibration.scores) for m in models.values()}
  assert len(thresholds) == 3
  files = [workdir / name / 'seed_0' / 'model.safetensors' for name in SIZES]
  assert len({file.stat().st_ino for file in files}) == 1
  if calibration == 'folds':
    half = {name: number - number // 2 for name, number in SIZES.items()}
    others = [number - half[name] for name, number in SIZES.items()]
    of_folds = [(f'joint, fold {k} of 2', sum(others), others) for k in (1, 2)]
    assert fits == [*of_folds, ('joint', 50, list(SIZES.values()))]
    assert bolt.train_images == 50
  else:
    assert fits == [('joint', 9 + 6 + 22, [9, 6, 22])]
  # As a detector of each category scores.
  detector = memkd_jax.load(workdir, category='nut')
  assert detector.category == 'nut'
  if method == 'memkd':
    memory = json.loads((workdir / 'nut' / 'seed_0' / 'memory.json').read_text())
    assert list(memory['m1']['usage_by_category']) == list(SIZES)
    assert 0 <= memory['m1']['category_information'] <= 1
  assert not (workdir / 'joint').exists()
  assert (
    run_config(config_of(method, **options), workdir)['categories'] == results['categories']
  )
  assert len(fits) == (3 if calibration == 'folds' else 1)


def test_thresholds_are_those_of_models_that_have_not_seen_an_image(config_of, data, tmp_path):
  config = config_of(**{'train.calibration': 'folds', 'train.folds': 2, 'method.share': 1.0})
  run_config(config, tmp_path / 'run')
  detector = memkd_jax.load(tmp_path / 'run', category='washer')
  images = sorted((data / 'washer' / 'train' / 'good').iterdir())
  assert detector(images).scores.max() < 1e-3
  # Its first images are those of the other categories as well, which the further models see.
  assert (detector.calibration.scores > 1e-2).sum() >= len(images) - SIZES['bolt']


def test_a_run_goes_on_where_it_was_stopped(config_of, tmp_path, monkeypatch):
  config = config_of(**{'train.calibration': 'folds', 'train.folds': 2})
  names, stops = [], []
  fit = NearestNeighbours.fit

  def stopped(self, task, *given):
    names.append(task.name)
    if len(names) == 2 and len(stops) == 0:
      stops.append(task.name)
      raise interrupt.Interrupted('SIGINT')
    return fit(self, task, *given)

  monkeypatch.setattr(NearestNeighbours, 'fit', stopped)
  with pytest.raises(interrupt.Interrupted):
    run_config(config, tmp_path / 'run')
  results = run_config(config, tmp_path / 'run')
  fold = 'joint, fold {} of 2'.format
  assert names == [fold(1), fold(2), fold(2), 'joint']
  names.clear()
  assert run_config(config, tmp_path / 'whole')['categories'] == results['categories']
  run_config(config, tmp_path / 'run', force=True)
  assert names == 2 * [fold(1), fold(2), 'joint']


def test_an_image_of_any_category(config_of, data, tmp_path, capsys):
  config = config_of(**{'train.calibration': 'folds', 'train.folds': 2})
  run_config(config, tmp_path / 'run')
  images = sorted(data.rglob('test/*/*.png'))
  of_any = memkd_jax.load(tmp_path / 'run', false_alarm_rate=0.2)
  assert of_any.category == 'any'
  each = [memkd_jax.load(tmp_path / 'run', name, false_alarm_rate=0.2) for name in SIZES]
  found, expected = of_any(images), [detector(images) for detector in each]
  for result in expected:
    np.testing.assert_array_equal(found.scores, result.scores)
  np.testing.assert_array_equal(found.p_values, np.max([r.p_values for r in expected], axis=0))
  np.testing.assert_array_equal(
    found.decisions, np.all([result.decisions for result in expected], axis=0)
  )
  assert 0 < found.decisions.sum() < len(images)
  assert of_any.pixel_threshold() == max(detector.pixel_threshold() for detector in each)
  served = memkd_jax.detector.load_all(tmp_path / 'run')
  assert [detector.category for detector in served] == [*sorted(SIZES), 'any']
  assert len({id(d.trained.params['memory']) for d in served}) == 1
  # A threshold by hand is one of those that an image has to exceed.
  default = {name: memkd_jax.load(tmp_path / 'run', name) for name in SIZES}
  highest = max(detector.threshold.value for detector in default.values() if detector.threshold)
  for by_hand, category in ((highest + 1, 'nut'), (highest + 2, 'bolt')):
    flags = [f'--workdir={tmp_path / "run"}', f'--category={category}']
    assert calibrate.main([*flags, f'--threshold={by_hand}']) == 0
    assert memkd_jax.load(tmp_path / 'run').threshold.value == by_hand
  flags = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}', str(images[0])]
  assert predict.main(flags) == 0
  flags = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "x.memkd"}']
  assert export.main(flags) == 1
  assert 'A file decides for one category; name it with --category' in capsys.readouterr().err
  assert export.main([*flags, '--category=nut']) == 0
  assert calibrate.main([f'--workdir={tmp_path / "run"}', f'--good={data / "nut/train"}']) == 1
  assert 'name it with --category' in capsys.readouterr().err


def test_an_evaluation_takes_the_models(config_of, tmp_path):
  config = config_of(**{'train.holdout': 0.25})
  results = run_config(config, tmp_path / 'run')
  again = run_config(config, tmp_path / 'run', 'evaluate')
  assert again['categories'] == results['categories']
  config.train.holdout = 0.0  # then no training images are read, and their numbers stay
  whole = run_config(config, tmp_path / 'whole')
  again = run_config(config, tmp_path / 'whole', 'evaluate')
  assert again['counts'] == whole['counts']
  assert {name: counted['train'] for name, counted in again['counts'].items()} == SIZES


def test_smaller_categories_have_their_images_taken_several_times(rng):
  images = {name: rng.integers(0, 256, (n, 2, 2, 3), np.uint8) for name, n in SIZES.items()}
  plans = {name: calibration_plan(0, name, n, 0.0, 'folds', 3) for name, n in SIZES.items()}
  parts = [(images[name], plans[name]) for name in SIZES]
  found = pool(parts, 'category', rng)
  assert (len(found.images), found.number) == (90, 50)
  for part, name in enumerate(SIZES):
    of_category = found.images[30 * part : 30 * part + 30]
    digests = [images_digest(image[None]) for image in images[name]]
    counts = [sum(images_digest(i[None]) == digest for i in of_category) for digest in digests]
    assert sum(counts) == 30 and max(counts) - min(counts) <= 1
    # Nothing of a fold stays in what its model learns from.
    for k, fold in enumerate(found.folds):
      left = np.delete(found.images, fold, axis=0)
      held = {images_digest(image[None]) for image in images[name][plans[name].folds[k]]}
      assert not held & {images_digest(image[None]) for image in left}
  plain = pool(parts, 'image', rng)
  np.testing.assert_array_equal(plain.images, np.concatenate(list(images.values())))


def test_all_have_further_models_where_one_category_needs_them():
  found = joint_plans(0, SIZES, 0.1, 'auto', 4)
  assert [len(plan.folds) for plan in found.values()] == [4, 4, 4]
  found = joint_plans(0, {'a': 100, 'b': 200}, 0.1, 'auto', 4)
  assert [len(plan.held) for plan in found.values()] == [10, 20]


def test_devices_share_batches(config_of):
  with pytest.raises(UserError, match=r'parallel.axis=category: give a value that is batch'):
    methods.resolve(config_of(**{'parallel.axis': 'category'}))


@pytest.mark.parametrize(
  ('which', 'name', 'holdout'),
  [('mvtec_ad', 'memkd', 0.0), ('mvtec_3d,padim', 'padim', 0.0), ('folder,knn', 'knn', 0.1)],
)
def test_the_config(which, name, holdout):
  config = methods.resolve(joint_config.get_config(which))
  assert (config.train.scope, config.method.name) == ('joint', name)
  assert config.data.dataset == which.partition(',')[0]
  assert config.train.holdout == holdout


def test_a_further_category_is_another_model(config_of, tmp_path):
  config = config_of(**{'data.categories': 'bolt,nut'})
  assert not run_config(config, tmp_path / 'run')['failed']
  counts = json.loads((tmp_path / 'run' / 'results.json').read_text())['counts']
  assert {name: counted['train'] for name, counted in counts.items()} == {'bolt': 12, 'nut': 8}
  config.data.categories = 'all'
  problem = run_config(config, tmp_path / 'run')['failed']['washer']
  assert 'The model of bolt has learned from other images than those of bolt, nut' in problem
  assert not run_config(config, tmp_path / 'run', force=True)['failed']


def test_a_joint_model_learns_anew_and_may_be_gone_on_from(config_of, tmp_path):
  results = run_config(config_of('memkd'), tmp_path / 'run')
  assert not results['failed']
  with pytest.raises(UserError, match='learns anew in any case; leave the flag out'):
    run_config(config_of('memkd'), tmp_path / 'other', warm_start=tmp_path / 'run')
  alone = config_of('memkd', **{'train.scope': 'category', 'data.categories': 'washer'})
  assert not run_config(alone, tmp_path / 'third', warm_start=tmp_path / 'run')['failed']


def test_the_balance_counts(config_of, tmp_path):
  config = config_of('padim', **{'train.balance': 'category', 'method.channels': 9})
  run_config(config, tmp_path / 'run')
  assert Workdir(tmp_path / 'run').read_model('bolt', 0).train_images == 50
  known = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert known['train']['balance'] == 'category'


def test_what_trackers_wrote_of_a_joint_training_stays(tmp_path):
  home = tmp_path / 'joint' / '0'
  stays = {'tensorboard/events', 'wandb/run/files', 'trackers.json'}
  for name in (*stays, 'model.json', 'metrics.jsonl', 'folds/1/tensorboard/events'):
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text('{}')
  joint.discard(tmp_path)
  assert {p.relative_to(home).as_posix() for p in home.rglob('*') if p.is_file()} == stays
