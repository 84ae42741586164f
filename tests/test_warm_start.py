"""Runs that go on from the models of another run."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_workdir import rewrite_facts
from whole_runs import assert_same, final_state, log_of, stop_after

import memkd_jax
from memkd_jax import main
from memkd_jax.errors import UserError
from memkd_jax.methods.distillation import Distillation
from memkd_jax.run import run_config
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]

FLAGS = (
  '--config=folder:rd',
  '--config.model.backbone=tiny_basic',
  '--config.model.teacher_weights=random',
  '--config.model.stages=(3,)',
  '--config.data.image_size=32',
  '--config.train.batch_size=8',
  '--config.train.epochs=2',
)


@pytest.fixture
def cheap_config(tiny_config):
  """One stage without memories."""
  tiny_config.model.memories, tiny_config.model.stages = (), (3,)
  return tiny_config


@pytest.fixture
def old(cheap_config, tmp_path, make_category):
  """The folder of a run that has ended."""
  make_category(tmp_path / 'data')
  run_config(cheap_config, tmp_path / 'old')
  return tmp_path / 'old'


def facts_of(workdir):
  return json.loads((workdir / 'bolt' / 'seed_0' / 'model.json').read_text())


def test_a_warm_started_run_resumes_bit_for_bit(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data')
  old = tmp_path / 'old'
  run_config(tiny_config, old)
  first, digest = log_of(old), facts_of(old)['tensors_sha256']
  tiny_config.train.checkpoint_steps = 2
  tiny_config.train.keep_checkpoints = True
  tiny_config.train.holdout = 0.0
  whole = run_config(tiny_config, tmp_path / 'whole', warm_start=old)
  losses = [line['loss'] for line in log_of(tmp_path / 'whole')]
  assert losses[0] < 0.9 * first[0]['loss']
  assert losses[-1] < min(first[-1]['loss'], losses[0])
  assert facts_of(old)['warm_start'] is None
  for name, given in (('found', None), ('given', old)):
    stop_after(monkeypatch, tiny_config, tmp_path / name, 3, warm_start=old)
    resumed = run_config(tiny_config, tmp_path / name, warm_start=given)
    assert resumed['per_seed'] == whole['per_seed']
    assert_same(*(final_state(tiny_config, tmp_path / n) for n in ('whole', name)))
    assert [line['loss'] for line in log_of(tmp_path / name)] == losses
    assert facts_of(tmp_path / name)['warm_start'] == digest
    assert json.loads((tmp_path / name / 'config.json').read_text())['warm_start'] == str(old)
  # When all is trained the old run may go.
  shutil.rmtree(old)
  assert run_config(tiny_config, tmp_path / 'found')['per_seed'] == whole['per_seed']
  tiny_config.anomaly_map.sigma = 1.0
  scored = run_config(tiny_config, tmp_path / 'found', 'evaluate')
  assert scored['per_seed'] != whole['per_seed']
  models = [Workdir(tmp_path / n).read_model('bolt', 0) for n in ('found', 'given')]
  assert_same(models[0].unfolding, models[1].unfolding)
  assert models[0].warm_start == digest


def test_a_changed_start_is_refused(old, cheap_config, tmp_path, monkeypatch):
  new, other = tmp_path / 'new', tmp_path / 'other'
  cheap_config.train.checkpoint_steps = 2
  stop_after(monkeypatch, cheap_config, new, 3, warm_start=old)
  shutil.copytree(old, other)
  with pytest.raises(UserError, match=r'warm_start is ".*/old" there and ".*/other" now\. Cho'):
    run_config(cheap_config, new, warm_start=other)
  shutil.copytree(old, tmp_path / 'kept')
  shutil.rmtree(old)
  with pytest.raises(UserError, match='old holds no trained model of bolt with seed 0; name'):
    run_config(cheap_config, new, warm_start=old)
  failed = run_config(cheap_config, new)['failed']  # where it is recorded, and needed
  assert 'old holds no trained model of bolt' in failed['bolt']

  shutil.copytree(tmp_path / 'kept', old)
  change_model(old)
  for given in (None, old):
    failed = run_config(cheap_config, new, warm_start=given)['failed']
    assert 'checkpoints began with another model than --warm-start has now' in failed['bolt']
  shutil.rmtree(old)
  shutil.copytree(tmp_path / 'kept', old)
  assert not run_config(cheap_config, new, warm_start=old)['failed']
  change_model(old)
  failed = run_config(cheap_config, new, warm_start=old)['failed']
  assert f'bolt went on from another model than --warm-start={old} has now' in failed['bolt']
  assert not run_config(cheap_config, new)['failed']  # the remedy
  with pytest.raises(UserError, match=r'warm_start is null there and ".*/new" now'):
    run_config(cheap_config, old, warm_start=new)
  with pytest.raises(UserError, match='is the folder of this run itself; name another'):
    run_config(cheap_config, new, warm_start=new)
  with pytest.raises(UserError, match='an evaluation trains nothing; leave it out'):
    run_config(cheap_config, new, 'evaluate', warm_start=old)


def change_model(workdir):
  trained = Workdir(workdir).read_model('bolt', 0)
  kernel = trained.params['bottleneck']['stage2_down']['conv']['kernel']
  kernel += 0.01
  Workdir(workdir).write_model(trained)


@pytest.mark.parametrize(
  ('changes', 'field'),
  [
    (
      {'model.stages': (2, 3)},
      r'model\.stages of .*/old/bolt/seed_0 is \[3\], and \[2, 3\]',
    ),
    ({'model.memories': (3,)}, r'method\.name of .* is "rd", and "memkd" now'),
    (
      {'model.backbone': 'tiny_bottleneck'},
      r'model\.backbone of .* is "tiny_basic", and "t',
    ),
    ({'data.image_size': 64}, r'data\.image_size of .* is 32, and 64 now; give the same value'),
    ({'seed': 3}, 'old holds no trained model of bolt with seed 3; name'),
  ],
)
def test_another_model_is_refused(old, cheap_config, tmp_path, changes, field):
  cheap_config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=field):
    run_config(cheap_config, tmp_path / 'new', warm_start=old)
  assert not (tmp_path / 'new').exists()


def test_another_teacher_an_old_file_and_a_damaged_one_are_refused(old, cheap_config, tmp_path):
  folder = old / 'bolt' / 'seed_0'

  def refused(message):
    with pytest.raises(UserError, match=message):
      run_config(cheap_config, tmp_path / 'new', warm_start=old)
    assert not (tmp_path / 'new').exists()

  rewrite_facts(folder, teacher_sha256='ab' * 32)
  refused(r'teacher of .* is another \(sha256 abababab there and random now\); name its file')
  rewrite_facts(folder, teacher_sha256='random')
  trained = Workdir(old).read_model('bolt', 0)
  Workdir(old).write_model(dataclasses.replace(trained, unfolding=None))
  refused('is of an earlier release, which kept nothing for a further training; train without')
  (folder / 'model.safetensors').write_bytes(b'')
  refused(r'The trained model in .* is damaged')


def test_only_the_model_itself_goes_on_not_its_folds(old, cheap_config, tmp_path, monkeypatch):
  fit, begun = Distillation.fit, []

  def recorded(self, task, images, folder, start=None):
    begun.append((task.name, start is not None))
    return fit(self, task, images, folder, start)

  monkeypatch.setattr(Distillation, 'fit', recorded)
  cheap_config.train.calibration, cheap_config.train.folds = 'folds', 2
  cheap_config.train.epochs = 2
  # The folder of a model does as well as that of a run, whatever its name.
  one = tmp_path / 'one'
  one.mkdir()
  for file in ('model.json', 'model.safetensors'):
    shutil.copy(old / 'bolt' / 'seed_0' / file, one)
  cheap_config.seed = 5
  assert not run_config(cheap_config, tmp_path / 'new', warm_start=one)['failed']
  assert begun == [('bolt, fold 1 of 2', False), ('bolt, fold 2 of 2', False), ('bolt', True)]


def test_what_scores_does_not_see_what_unfolding_needs(old, tmp_path):
  detector = memkd_jax.load(old)
  images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
  scores = detector(images).scores
  assert detector.trained.unfolding is None
  trained = Workdir(old).read_model('bolt', 0)
  assert set(trained.params) == {'bottleneck', 'student_stage3'} == set(trained.unfolding)
  names = load_file(old / 'bolt' / 'seed_0' / 'model.safetensors')
  assert any(name.startswith('unfolding/bottleneck/') for name in names)
  Workdir(old).write_model(dataclasses.replace(trained, unfolding=None))
  np.testing.assert_array_equal(memkd_jax.load(old)(images).scores, scores)


def remedies_of(sentence, new):
  """The flags that an error message offers, as they are printed."""
  warm = re.search(r'--warm-start=\S+ --workdir=NEW', sentence).group()
  return [['--force'], warm.replace('NEW', str(new)).split()]


@pytest.mark.parametrize('finished', [True, False])
def test_changed_training_images_offer_a_warm_start(tmp_path, make_category, capsys, finished):
  category = make_category(tmp_path / 'data', train=30)
  workdir = tmp_path / 'run'
  flags = [*FLAGS, f'--config.data.dir={tmp_path / "data"}']
  assert main.main([*flags, f'--workdir={workdir}']) == 0
  (category / 'train' / 'good' / '005.png').unlink()
  if not finished:
    (workdir / 'bolt' / 'seed_0' / 'result.json').unlink()
  capsys.readouterr()
  assert main.main([*flags, f'--workdir={workdir}']) == 1
  shown = capsys.readouterr().out
  sentence = 'training images have changed' if finished else 'a model of other training images'
  assert sentence in shown
  force, warm = remedies_of(shown, tmp_path / 'new')
  digest = facts_of(workdir)['tensors_sha256']
  assert main.main([*flags, *warm]) == 0
  assert f'bolt goes on from {workdir / "bolt" / "seed_0"}.' in capsys.readouterr().out
  assert facts_of(tmp_path / 'new')['warm_start'] == digest
  assert main.main([*flags, f'--workdir={workdir}', *force]) == 0
  assert facts_of(workdir)['tensors_sha256'] != digest


def test_an_ablation_has_no_warm_start(tmp_path, capsys):
  flags = ['--config=ablations/memories', f'--workdir={tmp_path}', '--warm-start=old']
  assert main.main(flags) == 1
  assert 'all variants begin anew; leave it out' in capsys.readouterr().err


def test_fit_goes_on(old, tmp_path):
  images = list(np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8))
  fields = {'backbone': 'tiny_basic', 'teacher_weights': 'random', 'image_size': 32}
  fields |= {
    'stages': (3,),
    'memories': (),
    'memory_items': 5,
    'train__batch_size': 8,
    'epochs': 1,
  }
  fields |= {'calibration': 'holdout', 'holdout': 0.0}
  model = old / 'bolt' / 'seed_0'
  memkd_jax.fit(images, tmp_path / 'fit', method='rd', warm_start=model, **fields)
  trained = Workdir(tmp_path / 'fit').read_model('images', 0)
  assert trained.warm_start == facts_of(old)['tensors_sha256']
