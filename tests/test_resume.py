"""Runs that are stopped, go on, and are evaluated again, on four virtual devices."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest
from whole_runs import (
  STEPS,
  assert_same,
  final_state,
  forbid_training,
  log_of,
  stop_after,
)

import memkd_jax
from memkd_jax import worker
from memkd_jax.data.images import read_image
from memkd_jax.errors import UserError, explain
from memkd_jax.methods import descent
from memkd_jax.methods.knn import NearestNeighbours
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.training.checkpoint import Checkpoints
from memkd_jax.workdir import SharedWorkdir, Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]


@pytest.fixture
def quick_config(make_quick_config, tmp_path):
  """Of a method that takes no steps, for what has to do with none."""
  return make_quick_config(tmp_path / 'data')


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
  order, calls = descent.batch_indices, []
  with monkeypatch.context() as patch:
    patch.setattr(descent, 'batch_indices', lambda *a: calls.append(a) or order(*a))
    results = run_config(tiny_config, tmp_path / 'stopped')
  assert len(calls) == STEPS - 2 * (stop // 2)  # from the last checkpoint, not from 0
  whole = json.loads((tmp_path / 'whole' / 'results.json').read_text())
  untold = {'environment': None, 'costs': None}  # they have times
  assert results | untold == whole | untold
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

  order, calls = descent.batch_indices, []

  def signalled(*arguments):
    calls.append(arguments)
    signal.raise_signal(signal.SIGTERM)
    return order(*arguments)

  for done in range(1, STEPS + 1):
    with monkeypatch.context() as patch:
      patch.setattr(descent, 'batch_indices', signalled)
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


def test_a_folder_that_another_process_uses_is_left_alone(
  quick_config, tmp_path, make_category
):
  make_category(tmp_path / 'data')
  (tmp_path / 'run').mkdir()
  with Workdir(tmp_path / 'run').locked():
    with pytest.raises(UserError, match=r'run is in use by process \d+ on .*; wait until'):
      run_config(quick_config, tmp_path / 'run')
    assert os.listdir(tmp_path / 'run') == ['.lock']
  run_config(quick_config, tmp_path / 'run')
  with (
    Workdir(tmp_path / 'run').locked(),
    pytest.raises(UserError, match='is in use by process'),
  ):
    run_config(quick_config, tmp_path / 'run', 'evaluate')
  with pytest.raises(UserError, match='give a local folder, or a place in a bucket'):
    run_config(quick_config, 'ftp://bucket/run')


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


def test_another_config_in_the_same_folder_is_refused(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  run_config(tiny_config, tmp_path / 'run')
  tiny_config.train.learning_rate = 0.1
  with pytest.raises(UserError, match=r'learning_rate is 0\.005 there and 0\.1 now'):
    run_config(tiny_config, tmp_path / 'run')


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
    'cases',
    'curves.png',
    'figure.png',
    'memory.json',
    'memory.png',
    'metrics.jsonl',
    'model.json',
    'model.safetensors',
    'parameters.txt',
    'result.json',
    'scores.csv',
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

  for place, name in ((worker.shared_checkpoints, 'discard'), (SharedWorkdir, 'write_result')):
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
  held_out = np.stack([read_image(path, (32, 32))[0] for path in held_out])

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
  assert written['anomaly_map'].items() >= {'combine': 'product', 'sigma': 1.0}.items()
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


def test_figures_of_other_maps_are_not_mixed(
  quick_config, tmp_path, make_category, monkeypatch
):
  for category in ('bolt', 'nut'):
    make_category(tmp_path / 'data', category)
  workdir = tmp_path / 'run'
  first = run_config(quick_config, workdir)
  forbid_training(monkeypatch, NearestNeighbours)
  quick_config.anomaly_map.sigma = 1.0
  quick_config.data.categories = 'bolt'
  run_config(quick_config, workdir, 'evaluate')
  # As long as the other one is not scored again, its result is none.
  assert Workdir(workdir).finished(0) == ['bolt']
  quick_config.data.categories = 'all'
  both = run_config(quick_config, workdir)
  assert both['categories']['nut'] != first['categories']['nut']
  assert run_config(quick_config, workdir, 'evaluate')['per_seed'] == both['per_seed']


def test_a_threshold_that_was_set_later_stays(quick_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  workdir = Workdir(tmp_path / 'run')
  run_config(quick_config, workdir.root)
  calibration = worker.Calibration(np.arange(3.0), np.linspace(0, 1, 51))
  workdir.write_calibration('bolt', 0, calibration)
  run_config(quick_config, workdir.root, 'evaluate')
  assert workdir.read_calibration('bolt', 0).scores.tolist() == [0, 1, 2]
  quick_config.anomaly_map.sigma = 1.0  # to whose maps it says nothing
  run_config(quick_config, workdir.root, 'evaluate')
  assert workdir.read_calibration('bolt', 0) is None
