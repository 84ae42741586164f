"""Training, resuming and scoring through `run`, on four virtual devices."""

import errno
import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime

import jax
import numpy as np
import pytest

import memkd_jax
from memkd_jax import methods, metrics, run
from memkd_jax.data import folder
from memkd_jax.data.images import read_image
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError, explain
from memkd_jax.evaluate import Scorer
from memkd_jax.methods import distillation_training, resolve
from memkd_jax.methods.base import Task
from memkd_jax.methods.distillation import Distillation
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training.checkpoint import Checkpoints
from memkd_jax.workdir import SharedWorkdir, Workdir

STEPS = 4 * 10 // 8
BOLT = Task.of_category('bolt', 0)


@pytest.fixture(scope='module')
def compiled():
  """What holds compiled programs, by what they depend on."""
  return {}


@pytest.fixture(autouse=True)
def share_compilations(monkeypatch, compiled):
  """Runs of this file share teacher, method and scorer, and with them the compilations."""
  create, extractor, scorer = methods.create, run.FeatureExtractor, run.Scorer

  def shared_extractor(*which):
    if ('teacher', which) not in compiled:
      compiled['teacher', which] = extractor(*which)
    return compiled['teacher', which]

  def shared_method(config, teacher, devices):
    train = config.train
    optimizer = (train.learning_rate, train.adam_b1, train.adam_b2)
    parts = [json.loads(part.to_json()) for part in (config.model, config.loss)]
    where = (config.parallel.axis, tuple(map(str, devices.local)))
    key = ('method', id(teacher), json.dumps([*parts, optimizer]), where)
    if key not in compiled:
      compiled[key] = create(config, teacher, devices)
    method = compiled[key]
    method.config = method.trainer._config = config
    return method

  def shared_scorer(pipeline, teacher_params, devices, batch_size):
    key = ('scorer', pipeline, tuple(map(str, devices.local)), batch_size)
    if key not in compiled:
      compiled[key] = scorer(pipeline, teacher_params, devices, batch_size)
    return compiled[key]

  monkeypatch.setattr(run, 'FeatureExtractor', shared_extractor)
  monkeypatch.setattr(methods, 'create', shared_method)
  monkeypatch.setattr(run, 'Scorer', shared_scorer)


def method_of(config):
  """The method with which `run_config` would run."""
  config = resolve(config)
  model = config.model
  extractor = run.FeatureExtractor(model.backbone, model.teacher_weights, model.dtype)
  return methods.create(config, extractor, Devices())


def scorer_of(config):
  method, config = method_of(config), resolve(config)
  pipeline = Pipeline(method.extractor, method, **config.anomaly_map.to_dict())
  size = config.eval.batch_size
  return run.Scorer(pipeline, method.extractor.params, method.devices, size)


def final_state(config, workdir, category='bolt', seed=0):
  """What a run with train.keep_checkpoints ended with."""
  images = np.zeros((10, 32, 32, 3), np.uint8)
  with Checkpoints(workdir / category / f'seed_{seed}' / 'checkpoints') as checkpoints:
    assert checkpoints.latest_step() == STEPS
    like = method_of(config).trainer.init_state(Task.of_category(category, seed), images)
    return checkpoints.restore(like)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def forbid_training(monkeypatch):
  def fail(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(Distillation, 'fit', fail)


def stop_after(monkeypatch, config, workdir, steps):
  """Runs, and interrupts before the next step."""
  order, calls = distillation_training.batch_indices, []

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) > steps:
      raise KeyboardInterrupt
    return order(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(distillation_training, 'batch_indices', interrupted)
    with pytest.raises(KeyboardInterrupt):
      run_config(config, workdir)


def log_of(workdir, category='bolt'):
  lines = (workdir / category / 'seed_0' / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_a_run_writes_all_that_it_promises(tiny_config, tmp_path, make_category, capsys):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut', masks=False, train=9)
  workdir = tmp_path / 'run'
  results = run_config(tiny_config, workdir)
  assert json.loads((workdir / 'results.json').read_text()) == results
  assert results['dataset'] == 'folder'
  assert results['failed'] == {}
  assert results['counts']['nut'] == {'train': 9, 'test_normal': 3, 'test_anomalous': 3}
  image, pixel = ['I-AUC', 'I-AP', 'I-F1max'], ['P-AUC', 'P-AP', 'P-PRO', 'P-F1max']
  assert list(results['categories']['bolt']) == image + pixel
  assert list(results['categories']['nut']) == image
  assert list(results['mean']) == image
  assert all(0 <= v <= 1 for f in results['categories'].values() for v in f.values())

  log = log_of(workdir)
  assert [line['step'] for line in log] == list(range(1, STEPS + 1))
  for line in log:
    terms = {'step', 'loss', 'kd', 'nm', 'orth', 'images_per_second', 'stall_seconds'}
    assert terms <= line.keys()
  assert (workdir / 'bolt' / 'seed_0' / 'figure.png').stat().st_size > 1000
  environment = results['environment']
  assert environment['device'] == {'platform': 'cpu', 'kind': 'cpu', 'number': 4}
  assert environment['versions'].keys() > {'python', 'jax', 'jaxlib', 'flax', 'numpy'}
  assert datetime.fromisoformat(environment['finished']).tzinfo == UTC
  report = (workdir / 'report.html').read_text()
  assert report.count('<img') == 6
  assert 'THESE FIGURES MEAN NOTHING' in report
  config = json.loads((workdir / 'config.json').read_text())
  assert config['model']['teacher_sha256'] == 'random'
  output = capsys.readouterr()
  assert 'THESE FIGURES MEAN NOTHING' in output.out
  assert 'THESE FIGURES MEAN NOTHING' in (workdir / 'results.md').read_text()
  assert (workdir / 'results.md').read_text() in output.out
  assert 'img/s' in output.err


def test_the_time_for_which_the_device_waits_is_logged(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  order = distillation_training.batch_indices

  def slow(*arguments):
    time.sleep(0.2)
    return order(*arguments)

  monkeypatch.setattr(distillation_training, 'batch_indices', slow)
  run_config(tiny_config, tmp_path / 'run')
  log = (tmp_path / 'run/bolt/seed_0/metrics.jsonl').read_text().splitlines()
  # Each step but the first of an interval that began with none to wait for.
  assert sum(json.loads(line)['stall_seconds'] for line in log) >= 0.2 * (STEPS - 2)


def test_keys_and_values_are_trained_saved_and_restored(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  trainer = method_of(tiny_config).trainer
  samples = folder.list_samples(tmp_path / 'data', 'bolt', 'train')
  images = load_split(samples, 32, 2).images
  start = trainer.init_state(BOLT, images)
  state, terms = trainer.train(BOLT, images, tmp_path / 'bolt')
  assert terms['loss'] > 0
  with Checkpoints(tmp_path / 'bolt' / 'checkpoints') as checkpoints:
    assert_same(checkpoints.restore(start), state)
  for m in ('memory_m1', 'memory_m2', 'memory_m3'):
    for name in ('keys', 'values'):
      assert np.abs(state.params[m][name] - start.params[m][name]).max() > 1e-3
  again, terms = trainer.train(BOLT, images, tmp_path / 'bolt')
  assert terms == {}
  assert_same(again, state)


@pytest.mark.parametrize('stop', [1, 2, 3, 4])
def test_a_stopped_run_ends_as_an_undisturbed_one(
  tiny_config, tmp_path, make_category, monkeypatch, stop
):
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 2
  tiny_config.train.keep_checkpoints = True
  run_config(tiny_config, tmp_path / 'whole')

  stop_after(monkeypatch, tiny_config, tmp_path / 'stopped', stop)
  assert not (tmp_path / 'stopped' / 'results.json').exists()
  order, calls = distillation_training.batch_indices, []
  with monkeypatch.context() as patch:
    patch.setattr(
      distillation_training, 'batch_indices', lambda *a: calls.append(a) or order(*a)
    )
    results = run_config(tiny_config, tmp_path / 'stopped')
  assert len(calls) == STEPS - 2 * (stop // 2)  # from the last checkpoint, not from 0
  whole = json.loads((tmp_path / 'whole' / 'results.json').read_text())
  assert results | {'environment': None} == whole | {'environment': None}  # it has the time
  assert_same(*(final_state(tiny_config, tmp_path / n) for n in ('whole', 'stopped')))
  whole, stopped = (log_of(tmp_path / name) for name in ('whole', 'stopped'))
  assert [line['step'] for line in stopped] == [1, 2, 3, 4, 5]
  assert [line['loss'] for line in stopped] == [line['loss'] for line in whole]


def test_a_signal_ends_a_run_after_its_step_and_no_step_is_lost(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut')
  tiny_config.train.keep_checkpoints = True
  whole = run_config(tiny_config, tmp_path / 'whole')
  again = run_config(tiny_config, tmp_path / 'again')
  assert_same(*(final_state(tiny_config, tmp_path / n) for n in ('whole', 'again')))
  assert again['per_seed'] == whole['per_seed']

  order, calls = distillation_training.batch_indices, []

  def signalled(*arguments):
    calls.append(arguments)
    signal.raise_signal(signal.SIGTERM)
    return order(*arguments)

  for done in range(1, STEPS + 1):
    with monkeypatch.context() as patch:
      patch.setattr(distillation_training, 'batch_indices', signalled)
      with interrupt.handled(), pytest.raises(interrupt.Interrupted, match='SIGTERM'):
        run_config(tiny_config, tmp_path / 'stopped')
    with Checkpoints(tmp_path / 'stopped' / 'bolt' / 'seed_0' / 'checkpoints') as checkpoints:
      assert checkpoints.latest_step() == done == len(calls)
    assert not (tmp_path / 'stopped' / 'nut').exists()
  results = run_config(tiny_config, tmp_path / 'stopped')
  assert results['per_seed'] == whole['per_seed']
  for category in ('bolt', 'nut'):
    states = [final_state(tiny_config, tmp_path / n, category) for n in ('whole', 'stopped')]
    assert_same(*states)


def test_a_full_disk_ends_the_run_and_leaves_what_it_has(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut')
  tiny_config.train.checkpoint_steps = 2
  rename, failed = os.rename, []

  def full(source, target):
    if os.path.basename(target) == '4' and not failed:  # by which a checkpoint gets its name
      failed.append(target)
      raise OSError(errno.ENOSPC, 'No space left on device')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', full)
  with pytest.raises(OSError) as error:
    run_config(tiny_config, tmp_path / 'run')
  folder = tmp_path / 'run' / 'bolt' / 'seed_0' / 'checkpoints'
  assert explain(error.value) == (
    f'{folder}: No space left on device; make room there, and run the same command again.'
  )
  assert not (tmp_path / 'run' / 'nut').exists()
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.latest_step() == 2
  assert run_config(tiny_config, tmp_path / 'run')['failed'] == {}


def test_a_folder_that_another_process_uses_is_left_alone(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  (tmp_path / 'run').mkdir()
  with Workdir(tmp_path / 'run').locked():
    with pytest.raises(UserError, match=r'run is in use by process \d+ on .*; wait until'):
      run_config(tiny_config, tmp_path / 'run')
    assert os.listdir(tmp_path / 'run') == ['.lock']
  run_config(tiny_config, tmp_path / 'run')
  with (
    Workdir(tmp_path / 'run').locked(),
    pytest.raises(UserError, match='is in use by process'),
  ):
    run_config(tiny_config, tmp_path / 'run', 'evaluate')
  with pytest.raises(UserError, match='a run needs a local folder'):
    run_config(tiny_config, 'gs://bucket/run')


def test_finished_categories_are_skipped_and_others_join_them(
  tiny_config, tmp_path, make_category, monkeypatch, capsys
):
  for category in ('bolt', 'nut'):
    make_category(tmp_path / 'data', category)
  workdir = tmp_path / 'run'
  tiny_config.data.categories = 'nut'
  first = run_config(tiny_config, workdir)
  tiny_config.data.categories = 'all'
  results = run_config(tiny_config, workdir)
  assert 'nut: finished already' in capsys.readouterr().out
  assert list(results['categories']) == ['bolt', 'nut']
  assert results['categories']['nut'] == first['categories']['nut']

  # The order of the categories changes nothing (protocol, trap 7).
  tiny_config.data.categories = 'nut,bolt'
  other = run_config(tiny_config, tmp_path / 'other')
  assert other['categories'] == results['categories']

  forbid_training(monkeypatch)
  assert run_config(tiny_config, workdir, 'evaluate')['categories'] == results['categories']


def test_evaluation_needs_a_finished_training(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 2
  with pytest.raises(UserError, match='holds no run to evaluate'):
    run_config(tiny_config, tmp_path / 'gone', 'evaluate')
  assert not (tmp_path / 'gone').exists()

  stop_after(monkeypatch, tiny_config, tmp_path / 'run', 3)
  results = run_config(tiny_config, tmp_path / 'run', 'evaluate')
  assert results['mean'] is None
  assert 'There is no trained model in' in results['failed']['bolt']
  assert not (tmp_path / 'run' / 'bolt' / 'seed_0' / 'model.json').exists()
  tiny_config.data.categories = 'nut'
  make_category(tmp_path / 'data', 'nut')
  results = run_config(tiny_config, tmp_path / 'run', 'evaluate')
  assert 'nut/seed_0; train without --mode=evaluate' in results['failed']['nut']
  assert not (tmp_path / 'run' / 'nut').exists()


def test_a_changed_training_set_is_not_mixed_into_a_run(
  tiny_config, tmp_path, make_category, monkeypatch
):
  category = make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 2
  stop_after(monkeypatch, tiny_config, tmp_path / 'run', 3)
  good = category / 'train' / 'good'
  (good / '000.png').write_bytes((good / '001.png').read_bytes())
  results = run_config(tiny_config, tmp_path / 'run')
  assert 'began with other training images' in results['failed']['bolt']


def test_a_category_that_fails_does_not_stop_the_others(tiny_config, tmp_path, make_category):
  bad = make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut')
  (bad / 'test' / 'hole' / '001.png').write_bytes(b'broken')
  results = run_config(tiny_config, tmp_path / 'run')
  assert list(results['categories']) == ['nut']
  assert 'test/hole/001.png is not a readable image' in results['failed']['bolt']
  assert results['mean'] is None
  # The broken image came to light before any training.
  assert not (tmp_path / 'run' / 'bolt').exists()


def test_undefined_metrics_name_the_category(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data', good=0)
  results = run_config(tiny_config, tmp_path / 'run')
  assert 'bolt has no normal test images' in results['failed']['bolt']


def test_too_few_images_for_one_batch(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data', train=1)
  results = run_config(tiny_config, tmp_path / 'run')
  assert 'fill no batch of 8' in results['failed']['bolt']


def test_a_loss_that_is_not_finite_stops_with_its_step_and_terms(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 1
  trainer = method_of(tiny_config).trainer
  step, calls = trainer.train_step, []

  def poisoned(*arguments):
    calls.append(1)
    state, terms = step(*arguments)
    if len(calls) == 3:
      terms |= {'nm': terms['nm'] * np.nan, 'loss': terms['loss'] * np.inf}
    return state, terms

  monkeypatch.setattr(trainer, 'train_step', poisoned)
  results = run_config(tiny_config, tmp_path / 'run')
  assert (
    'bolt: training stopped at step 3, where nm=nan was the first that is not finite '
    '(then loss=inf);' in results['failed']['bolt']
  )
  assert [line['step'] for line in log_of(tmp_path / 'run')] == [1, 2]
  with Checkpoints(tmp_path / 'run' / 'bolt' / 'seed_0' / 'checkpoints') as checkpoints:
    assert checkpoints.latest_step() == 2


def test_a_teacher_that_is_not_finite_comes_before_all_terms(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  trainer = method_of(tiny_config).trainer
  params = trainer._teacher_params
  broken = jax.tree.map(lambda x: x * np.nan, params['stage2'])
  monkeypatch.setattr(trainer, '_teacher_params', {**params, 'stage2': broken})
  reason = run_config(tiny_config, tmp_path / 'run')['failed']['bolt']
  assert "at step 1, where the teacher's stage 2 was the first that is not finite" in reason
  assert 'loss=nan' in reason
  assert reason.endswith('Check random and the machine.')


def test_a_loss_that_rises_is_a_note(tiny_config, tmp_path, make_category, monkeypatch):
  make_category(tmp_path / 'data', train=20)  # for 10 steps
  trainer = method_of(tiny_config).trainer
  step, calls = trainer.train_step, []

  def rising(*arguments):
    calls.append(1)
    state, terms = step(*arguments)
    return state, terms | {'loss': terms['loss'] * len(calls) ** 2}

  monkeypatch.setattr(trainer, 'train_step', rising)
  results = run_config(tiny_config, tmp_path / 'run')
  (note,) = (n for n in results['notes'] if 'diverged' in n)
  assert note.startswith('The training of bolt diverged: its loss was ')
  assert note in (tmp_path / 'run' / 'results.md').read_text()
  assert note in (tmp_path / 'run' / 'report.html').read_text()
  evaluated = run_config(tiny_config, tmp_path / 'run', 'evaluate')
  assert note in evaluated['notes']


def test_padding_does_not_change_a_score(tiny_config, rng):
  scorer, trainer = scorer_of(tiny_config), method_of(tiny_config).trainer
  images = rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)  # batches of 4 and of 3
  params = trainer.fold(trainer.init_state(BOLT, images))
  maps, scores, seen = scorer(params, images)
  assert maps.shape == (7, 32, 32)
  np.testing.assert_array_equal(scores, maps.max((1, 2)))
  assert {len(leaf) for leaf in jax.tree.leaves(seen)} == {7}
  for i in range(7):
    one_map, one_score, one_seen = scorer(params, images[i : i + 1])
    np.testing.assert_allclose(one_map[0], maps[i], atol=1e-6)
    np.testing.assert_allclose(one_score[0], scores[i], atol=1e-6)
    for a, b in zip(jax.tree.leaves(one_seen), jax.tree.leaves(seen), strict=True):
      np.testing.assert_allclose(a[0], b[i], atol=1e-5)


def test_the_figures_are_those_of_the_raw_maps(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  tiny_config.train.keep_checkpoints = True
  results = run_config(tiny_config, tmp_path / 'run')
  state = final_state(tiny_config, tmp_path / 'run')
  # The model is the last checkpoint, folded.
  params = method_of(tiny_config).trainer.fold(state)
  assert_same(Workdir(tmp_path / 'run').read_model('bolt', 0).params, params)
  test = load_split(folder.list_samples(tmp_path / 'data', 'bolt', 'test'), 32, 2)
  maps, scores, _ = scorer_of(tiny_config)(params, test.images)
  figures = results['categories']['bolt']
  assert figures['I-AUC'] == metrics.auroc(test.labels, scores)
  assert figures['P-PRO'] == metrics.aupro(test.masks, maps)
  assert figures['P-F1max'] == metrics.f1_max(test.masks, maps)[0]


def test_another_config_in_the_same_folder_is_refused(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  run_config(tiny_config, tmp_path / 'run')
  tiny_config.train.learning_rate = 0.1
  with pytest.raises(UserError, match=r'learning_rate is 0\.005 there and 0\.1 now'):
    run_config(tiny_config, tmp_path / 'run')


def test_prepared_data_give_the_same_figures(tiny_config, tmp_path, make_category, monkeypatch):
  from memkd_jax.data.tfds import builder

  make_category(tmp_path / 'data', size=40)
  builder.prepare('folder', 'bolt', tmp_path / 'data', str(tmp_path / 'tfds'))
  tiny_config.eval.resolution = 'original'
  folder_results = run_config(tiny_config, tmp_path / 'a')
  tiny_config.data.source, tiny_config.data.dir = 'tfds', str(tmp_path / 'tfds')
  assert run_config(tiny_config, tmp_path / 'b')['per_seed'] == folder_results['per_seed']


def test_several_seeds_are_several_models_that_go_on_one_by_one(
  tiny_config, tmp_path, make_category, capsys
):
  make_category(tmp_path / 'data')
  tiny_config.seed = 4
  alone = run_config(tiny_config, tmp_path / 'alone')
  tiny_config.seeds = (1, 4)
  both = run_config(tiny_config, tmp_path / 'alone')
  assert 'bolt, seed 4: finished already' in capsys.readouterr().out
  assert both['per_seed']['4'] == alone['per_seed']['4']
  first, second = (Workdir(tmp_path / 'alone').read_model('bolt', seed) for seed in (1, 4))
  assert (first.seed, second.seed) == (1, 4)
  a, b = (trained.params['memory_m1']['keys'] for trained in (first, second))
  assert not np.array_equal(a, b)


def test_checkpoints_go_when_the_model_is_there(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  home = tmp_path / 'run' / 'bolt' / 'seed_0'
  run_config(tiny_config, tmp_path / 'run')
  assert sorted(p.name for p in home.iterdir()) == [
    'curves.png',
    'figure.png',
    'memory.json',
    'memory.png',
    'metrics.jsonl',
    'model.json',
    'model.safetensors',
    'result.json',
  ]
  tiny_config.train.keep_checkpoints = True
  run_config(tiny_config, tmp_path / 'kept')
  assert final_state(tiny_config, tmp_path / 'kept').step == STEPS
  assert_same(*(Workdir(tmp_path / n).read_model('bolt', 0).params for n in ('run', 'kept')))


def test_a_run_that_is_killed_between_model_and_result_trains_no_more(
  tiny_config, tmp_path, make_category, monkeypatch
):
  category = make_category(tmp_path / 'data')
  whole = run_config(tiny_config, tmp_path / 'whole')

  def killed(*_):
    raise KeyboardInterrupt

  for place, name in ((run.shared_checkpoints, 'discard'), (SharedWorkdir, 'write_result')):
    shutil.rmtree(tmp_path / 'run', ignore_errors=True)
    with monkeypatch.context() as patch:
      patch.setattr(place, name, killed)
      with pytest.raises(KeyboardInterrupt):
        run_config(tiny_config, tmp_path / 'run')
    home = tmp_path / 'run' / 'bolt' / 'seed_0'
    assert (home / 'model.json').exists() and not (home / 'result.json').exists()
    assert (home / 'checkpoints').exists() == (name == 'discard')
    with monkeypatch.context() as patch:
      forbid_training(patch)
      results = run_config(tiny_config, tmp_path / 'run')
    assert results['per_seed'] == whole['per_seed']
    assert not (home / 'checkpoints').exists()

  (home / 'result.json').unlink()
  good = category / 'train' / 'good'
  (good / '000.png').write_bytes((good / '001.png').read_bytes())
  results = run_config(tiny_config, tmp_path / 'run')
  assert f'{home} holds a model of other training images' in results['failed']['bolt']
  # An evaluation learns nothing from them, and does not look at them.
  assert run_config(tiny_config, tmp_path / 'run', 'evaluate')['per_seed'] == whole['per_seed']


def test_an_evaluation_may_have_other_maps(tiny_config, tmp_path, make_category, monkeypatch):
  make_category(tmp_path / 'data', train=12, size=40)
  tiny_config.train.holdout = 0.2
  workdir = tmp_path / 'run'
  first = run_config(tiny_config, workdir)
  begun = Workdir(workdir).read_model('bolt', 0)
  held_out = [p for p in (tmp_path / 'data/bolt/train/good').iterdir()]
  held_out = np.stack([read_image(path, 32)[0] for path in held_out])

  def check_detector():
    """A detector gives the maps of the figures, and decides by them."""
    detector = memkd_jax.load(workdir)
    assert len(detector.calibration.scores) == 2
    scores = detector(held_out).scores
    for held in detector.calibration.scores:
      assert np.isclose(scores, held, rtol=1e-4).any()

  check_detector()
  forbid_training(monkeypatch)
  tiny_config.anomaly_map.sigma = 1.0
  tiny_config.anomaly_map.combine = 'product'
  tiny_config.eval.resolution = 'original'
  tiny_config.eval.batch_size = 8
  with pytest.raises(UserError, match=r'anomaly_map\.sigma is 4\.0 there and 1\.0 now'):
    run_config(tiny_config, workdir)
  other = run_config(tiny_config, workdir, 'evaluate')
  assert other['categories']['bolt'] != first['categories']['bolt']
  written = json.loads((workdir / 'config.json').read_text())
  assert written['anomaly_map'] == {'align_corners': True, 'combine': 'product', 'sigma': 1.0}
  assert written['eval']['resolution'] == 'original'
  found = Workdir(workdir).read_model('bolt', 0)
  assert_same(found.params, begun.params)
  assert found.config.anomaly_map.sigma == 1
  assert not np.array_equal(found.calibration.scores, begun.calibration.scores)
  check_detector()
  assert run_config(tiny_config, workdir)['per_seed'] == other['per_seed']

  for field, value in (('model.temperature', 2.0), ('train.learning_rate', 0.1)):
    changed = tiny_config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f'{field} is .* there and {value} now'):
      run_config(changed, workdir, 'evaluate')

  tiny_config.anomaly_map.sigma, tiny_config.anomaly_map.combine = 4.0, 'sum'
  tiny_config.eval.resolution, tiny_config.eval.batch_size = 'model', 4
  assert run_config(tiny_config, workdir, 'evaluate')['per_seed'] == first['per_seed']
  calibration = Workdir(workdir).read_calibration('bolt', 0)
  np.testing.assert_array_equal(calibration.scores, begun.calibration.scores)
  np.testing.assert_array_equal(calibration.pixels, begun.calibration.pixels)


def test_figures_of_other_maps_are_not_mixed(tiny_config, tmp_path, make_category, monkeypatch):
  for category in ('bolt', 'nut'):
    make_category(tmp_path / 'data', category)
  workdir = tmp_path / 'run'
  first = run_config(tiny_config, workdir)
  forbid_training(monkeypatch)
  tiny_config.anomaly_map.sigma = 1.0
  tiny_config.data.categories = 'bolt'
  run_config(tiny_config, workdir, 'evaluate')
  # As long as the other one is not scored again, its result is none.
  assert Workdir(workdir).finished(0) == ['bolt']
  tiny_config.data.categories = 'all'
  both = run_config(tiny_config, workdir)
  assert both['categories']['nut'] != first['categories']['nut']
  assert run_config(tiny_config, workdir, 'evaluate')['per_seed'] == both['per_seed']


def test_a_threshold_that_was_set_later_stays(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  workdir = Workdir(tmp_path / 'run')
  run_config(tiny_config, workdir.root)
  calibration = run.Calibration(np.arange(3.0), np.linspace(0, 1, 51))
  workdir.write_calibration('bolt', 0, calibration)
  run_config(tiny_config, workdir.root, 'evaluate')
  assert workdir.read_calibration('bolt', 0).scores.tolist() == [0, 1, 2]
  tiny_config.anomaly_map.sigma = 1.0  # to whose maps it says nothing
  run_config(tiny_config, workdir.root, 'evaluate')
  assert workdir.read_calibration('bolt', 0) is None


def test_images_are_looked_at_once(tiny_config, tmp_path, make_category, monkeypatch):
  for category, masks in (('bolt', True), ('nut', False)):
    make_category(tmp_path / 'data', category, masks=masks)
  workdir = tmp_path / 'run'
  decode, splits = run.load_split, []

  def counted(samples, *arguments):
    splits.append(len(samples))
    return decode(samples, *arguments)

  monkeypatch.setattr(run, 'load_split', counted)
  tiny_config.seeds = (1, 2)
  results = run_config(tiny_config, workdir)
  assert splits == [6, 10] * 2  # test and train of each category, for two seeds

  traced, batches = [], []
  extract = FeatureExtractor.__call__

  def traced_extract(*arguments):
    traced.append(arguments)
    return extract(*arguments)

  def counting_scorer(pipeline, teacher_params, devices, batch_size):
    """One that no other test has compiled."""
    made = Scorer(pipeline, teacher_params, devices, batch_size)
    step = made._step
    made._step = lambda *given: batches.append(given[2].shape) or step(*given)
    return made

  def files():
    return {
      path: path.read_bytes()
      for path in workdir.rglob('*')
      if path.name in ('memory.json', 'model.json', 'model.safetensors', 'metrics.jsonl')
    }

  before = files()
  assert {path.name for path in before} >= {'memory.json'} and len(before) == 4 * 4
  monkeypatch.setattr(FeatureExtractor, '__call__', traced_extract)
  monkeypatch.setattr(run, 'Scorer', counting_scorer)
  forbid_training(monkeypatch)
  splits.clear()
  evaluated = run_config(tiny_config, workdir, 'evaluate')
  assert evaluated['per_seed'] == results['per_seed']
  assert splits == [6, 6]  # and of no training image
  assert batches == [(4, 1, 32, 32, 3)] * 8  # two for each category and seed
  assert len(traced) == 1  # in the one program of maps, scores and diagnosis
  assert files() == before
