"""Training and scoring through `run`, on four virtual devices."""

import json
import time
from datetime import UTC, datetime

import jax
import numpy as np
import pytest
from whole_runs import (
  BOLT,
  STEPS,
  assert_same,
  final_state,
  forbid_training,
  log_of,
  method_of,
  scorer_of,
)

from memkd_jax import metrics, worker
from memkd_jax.data import folder
from memkd_jax.data.splits import load_split
from memkd_jax.evaluate import Scorer
from memkd_jax.methods import descent
from memkd_jax.run import run_config
from memkd_jax.teachers.extractor import FeatureExtractor
from memkd_jax.training.checkpoint import Checkpoints
from memkd_jax.workdir import Workdir, reading

pytestmark = pytest.mark.usefixtures('share_compilations')


@pytest.mark.usefixtures('drawn')
def test_a_run_writes_all_that_it_promises(tiny_config, tmp_path, make_category, capsys):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut', masks=False, train=9)
  workdir = tmp_path / 'run'
  results = run_config(tiny_config, workdir)
  assert json.loads((workdir / 'results.json').read_text()) == results
  assert results['dataset'] == 'folder'
  assert results['failed'] == {}
  assert results['counts']['nut'] == {'train': 9, 'test_normal': 3, 'test_anomalous': 3}
  image, pixel = ['I-AUC', 'I-AP', 'I-F1max'], ['P-AUC', 'P-AP', 'P-PRO', 'P-PRO5', 'P-F1max']
  assert list(results['categories']['bolt']) == image + pixel
  assert list(results['categories']['nut']) == image
  assert list(results['mean']) == image
  assert all(0 <= v <= 1 for f in results['categories'].values() for v in f.values())

  log = log_of(workdir)
  assert [line['step'] for line in log] == list(range(1, STEPS + 1))
  for line in log:
    terms = {'step', 'loss', 'kd', 'nm', 'orth', 'images_per_second', 'stall_seconds'}
    assert terms <= line.keys()
  assert 'step_seconds_p99' in log[-1]
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
  assert output.out.count('Parameters: teacher') == 1  # of two categories
  table = (workdir / 'nut' / 'seed_0' / 'parameters.txt').read_text()
  assert 'memory_m1/keys' in table and 'total frozen' in table


def test_the_time_for_which_the_device_waits_is_logged(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  order = descent.batch_indices

  def slow(*arguments):
    time.sleep(0.2)
    return order(*arguments)

  monkeypatch.setattr(descent, 'batch_indices', slow)
  run_config(tiny_config, tmp_path / 'run')
  log = (tmp_path / 'run/bolt/seed_0/metrics.jsonl').read_text().splitlines()
  # Each step but the first of an interval that began with none to wait for.
  assert sum(json.loads(line)['stall_seconds'] for line in log) >= 0.2 * (STEPS - 2)


def test_keys_and_values_are_trained_saved_and_restored(tiny_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  trainer = method_of(tiny_config).trainer
  samples = folder.list_samples(tmp_path / 'data', 'bolt', 'train')
  images = load_split(samples, (32, 32), 2).images
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
  assert set(results['categories']['bolt']) == {
    'P-AUC',
    'P-AP',
    'P-PRO',
    'P-PRO5',
    'P-F1max',
  }
  assert any('bolt has no normal test images' in note for note in results['notes'])


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
      with jax.transfer_guard('allow'):
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
  params = trainer.teacher.params
  broken = jax.tree.map(lambda x: x * np.nan, params['stage2'])
  monkeypatch.setattr(trainer.teacher, 'params', {**params, 'stage2': broken})
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
    with jax.transfer_guard('allow'):  # the number is moved to the devices
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
  test = load_split(folder.list_samples(tmp_path / 'data', 'bolt', 'test'), (32, 32), 2)
  maps, scores, _ = scorer_of(tiny_config)(params, test.images)
  figures = results['categories']['bolt']
  assert figures['I-AUC'] == metrics.auroc(test.labels, scores)
  assert figures['P-PRO'] == metrics.aupro(test.masks, maps)
  assert figures['P-F1max'] == metrics.f1_max(test.masks, maps)[0]


@pytest.mark.newest
def test_prepared_data_give_the_same_figures(tiny_config, tmp_path, make_category, monkeypatch):
  from memkd_jax.data.tfds import builder

  make_category(tmp_path / 'data', size=40)
  builder.prepare('folder', 'bolt', tmp_path / 'data', str(tmp_path / 'tfds'))
  tiny_config.eval.resolution = 'original'
  folder_results = run_config(tiny_config, tmp_path / 'a')
  tiny_config.data.source, tiny_config.data.dir = 'tfds', str(tmp_path / 'tfds')
  assert run_config(tiny_config, tmp_path / 'b')['per_seed'] == folder_results['per_seed']


@pytest.mark.newest
def test_images_are_looked_at_once(tiny_config, tmp_path, make_category, monkeypatch):
  for category, masks in (('bolt', True), ('nut', False)):
    make_category(tmp_path / 'data', category, masks=masks)
  workdir = tmp_path / 'run'
  decode, splits = reading.load_split, []

  def counted(samples, *arguments):
    splits.append(len(samples))
    return decode(samples, *arguments)

  monkeypatch.setattr(reading, 'load_split', counted)
  tiny_config.seeds = (1, 2)
  results = run_config(tiny_config, workdir)
  assert splits == [6, 10] * 2  # test and train of each category, for two seeds

  traced, batches = [], []
  extract = FeatureExtractor.__call__

  def traced_extract(*arguments):
    traced.append(arguments)
    return extract(*arguments)

  def counting_scorer(*arguments):
    """One that no other test has compiled."""
    made = Scorer(*arguments)
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
  monkeypatch.setattr(worker, 'Scorer', counting_scorer)
  forbid_training(monkeypatch)
  splits.clear()
  evaluated = run_config(tiny_config, workdir, 'evaluate')
  assert evaluated['per_seed'] == results['per_seed']
  assert splits == [6, 0, 6, 0]  # and of no training image
  assert batches == [(4, 1, 32, 32, 3)] * 8  # two for each category and seed
  assert len(traced) == 1  # in the one program of maps, scores and diagnosis
  assert files() == before
