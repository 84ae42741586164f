"""Training, resuming and scoring through `run`, on four virtual devices."""

import errno
import json
import os
import signal
import time
from datetime import UTC, datetime

import jax
import numpy as np
import pytest

from memkd_jax import metrics, run
from memkd_jax.config import resolve
from memkd_jax.data import folder
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError, explain
from memkd_jax.evaluate import score_images
from memkd_jax.methods.distillation import System
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.training import manifest
from memkd_jax.training.checkpoint import Checkpoints
from memkd_jax.workdir import Workdir

STEPS = 4 * 10 // 8


@pytest.fixture(scope='module')
def compiled():
  """Systems by config, so that tests of this file share compilations."""
  return {}


@pytest.fixture(autouse=True)
def share_compilations(monkeypatch, compiled):
  def shared(config):
    model, loss, optimizer = config.model, config.loss, config.train
    key = json.dumps(
      [json.loads(part.to_json_best_effort()) for part in (model, loss, optimizer)]
    )
    if key not in compiled:
      compiled[key] = System(config)
    compiled[key].config = config
    return compiled[key]

  monkeypatch.setattr(run, 'System', shared)


def final_state(config, workdir, category='bolt'):
  system = run.System(resolve(config))
  images = np.zeros((10, 32, 32, 3), np.uint8)
  with Checkpoints(workdir / category / 'seed_0' / 'checkpoints') as checkpoints:
    assert checkpoints.latest_step() == STEPS
    return checkpoints.restore(system.init_state(category, 0, images))


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def stop_after(monkeypatch, config, workdir, steps):
  """Runs, and interrupts before the next step."""
  order, calls = run.batch_indices, []

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) > steps:
      raise KeyboardInterrupt
    return order(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(run, 'batch_indices', interrupted)
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
  order = run.batch_indices

  def slow(*arguments):
    time.sleep(0.2)
    return order(*arguments)

  monkeypatch.setattr(run, 'batch_indices', slow)
  run_config(tiny_config, tmp_path / 'run')
  log = (tmp_path / 'run/bolt/seed_0/metrics.jsonl').read_text().splitlines()
  # Each step but the first of an interval that began with none to wait for.
  assert sum(json.loads(line)['stall_seconds'] for line in log) >= 0.2 * (STEPS - 2)


def test_keys_and_values_are_trained_saved_and_restored(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  config = resolve(tiny_config)
  system = run.System(config)
  samples = folder.list_samples(tmp_path / 'data', 'bolt', 'train')
  images = load_split(samples, 32, 2).images
  start = system.init_state('bolt', 0, images)
  state, terms = run.train_category(system, 'bolt', 0, images, tmp_path / 'bolt')
  assert terms['loss'] > 0
  with Checkpoints(tmp_path / 'bolt' / 'checkpoints') as checkpoints:
    assert_same(checkpoints.restore(start), state)
  for m in ('memory_m1', 'memory_m2', 'memory_m3'):
    for name in ('keys', 'values'):
      assert np.abs(state.params[m][name] - start.params[m][name]).max() > 1e-3
  again, terms = run.train_category(system, 'bolt', 0, images, tmp_path / 'bolt')
  assert terms == {}
  assert_same(again, state)


@pytest.mark.parametrize('stop', [1, 2, 3, 4])
def test_a_stopped_run_ends_as_an_undisturbed_one(
  tiny_config, tmp_path, make_category, monkeypatch, stop
):
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 2
  run_config(tiny_config, tmp_path / 'whole')

  stop_after(monkeypatch, tiny_config, tmp_path / 'stopped', stop)
  assert not (tmp_path / 'stopped' / 'results.json').exists()
  order, calls = run.batch_indices, []
  with monkeypatch.context() as patch:
    patch.setattr(run, 'batch_indices', lambda *a: calls.append(a) or order(*a))
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
  whole = run_config(tiny_config, tmp_path / 'whole')
  again = run_config(tiny_config, tmp_path / 'again')
  assert_same(*(final_state(tiny_config, tmp_path / n) for n in ('whole', 'again')))
  assert again['per_seed'] == whole['per_seed']

  order, calls = run.batch_indices, []

  def signalled(*arguments):
    calls.append(arguments)
    signal.raise_signal(signal.SIGTERM)
    return order(*arguments)

  for done in range(1, STEPS + 1):
    with monkeypatch.context() as patch:
      patch.setattr(run, 'batch_indices', signalled)
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
  write, calls = manifest.write, []

  def full(folder):
    calls.append(folder)
    if len(calls) == 2:
      raise OSError(errno.ENOSPC, 'No space left on device')
    write(folder)

  monkeypatch.setattr(manifest, 'write', full)
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

  def fail(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(run, 'train_category', fail)
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
  assert 'has not ended (step 2 of 5)' in results['failed']['bolt']
  tiny_config.data.categories = 'nut'
  make_category(tmp_path / 'data', 'nut')
  results = run_config(tiny_config, tmp_path / 'run', 'evaluate')
  assert 'no checkpoints in' in results['failed']['nut']
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
  system = run.System(resolve(tiny_config))
  step, calls = system.train_step, []

  def poisoned(*arguments):
    calls.append(1)
    state, terms = step(*arguments)
    if len(calls) == 3:
      terms |= {'nm': terms['nm'] * np.nan, 'loss': terms['loss'] * np.inf}
    return state, terms

  monkeypatch.setattr(system, 'train_step', poisoned)
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
  system = run.System(resolve(tiny_config))
  broken = jax.tree.map(lambda x: x * np.nan, system.teacher_params['stage2'])
  monkeypatch.setattr(system, 'teacher_params', {**system.teacher_params, 'stage2': broken})
  reason = run_config(tiny_config, tmp_path / 'run')['failed']['bolt']
  assert "at step 1, where the teacher's stage 2 was the first that is not finite" in reason
  assert 'loss=nan' in reason
  assert reason.endswith('Check random and the machine.')


def test_a_loss_that_rises_is_a_note(tiny_config, tmp_path, make_category, monkeypatch):
  make_category(tmp_path / 'data', train=20)  # for 10 steps
  system = run.System(resolve(tiny_config))
  step, calls = system.train_step, []

  def rising(*arguments):
    calls.append(1)
    state, terms = step(*arguments)
    return state, terms | {'loss': terms['loss'] * len(calls) ** 2}

  monkeypatch.setattr(system, 'train_step', rising)
  results = run_config(tiny_config, tmp_path / 'run')
  (note,) = (n for n in results['notes'] if 'diverged' in n)
  assert note.startswith('The training of bolt diverged: its loss was ')
  assert note in (tmp_path / 'run' / 'results.md').read_text()
  assert note in (tmp_path / 'run' / 'report.html').read_text()
  evaluated = run_config(tiny_config, tmp_path / 'run', 'evaluate')
  assert note in evaluated['notes']


def test_padding_does_not_change_a_score(tiny_config, tmp_path, rng):
  system = run.System(resolve(tiny_config))
  images = rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)  # batches of 4 and of 3
  state = system.init_state('bolt', 0, images)
  maps, scores = score_images(system, state, images)
  assert maps.shape == (7, 32, 32)
  np.testing.assert_array_equal(scores, maps.max((1, 2)))
  for i in range(7):
    one_map, one_score = score_images(system, state, images[i : i + 1])
    np.testing.assert_allclose(one_map[0], maps[i], atol=1e-6)
    np.testing.assert_allclose(one_score[0], scores[i], atol=1e-6)


def test_the_figures_are_those_of_the_raw_maps(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  results = run_config(tiny_config, tmp_path / 'run')
  state = final_state(tiny_config, tmp_path / 'run')
  system = run.System(resolve(tiny_config))
  test = load_split(folder.list_samples(tmp_path / 'data', 'bolt', 'test'), 32, 2)
  maps, scores = score_images(system, state, test.images)
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
  tiny_config.eval.preset = 'original'
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
  states = [
    Checkpoints(tmp_path / 'alone' / 'bolt' / f'seed_{seed}' / 'checkpoints') for seed in (1, 4)
  ]
  system = run.System(resolve(tiny_config))
  like = system.init_state('bolt', 0, np.zeros((10, 32, 32, 3), np.uint8))
  a, b = (checkpoints.restore(like).params['memory_m1']['keys'] for checkpoints in states)
  assert not np.array_equal(a, b)
