import errno
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.errors import UserError
from memkd_jax.files import lock
from memkd_jax.files import model as model_file
from memkd_jax.files.digest import digest
from memkd_jax.runtime import hosts
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.workdir import SharedWorkdir, TrainedModel, Workdir, read_model_folder


@pytest.fixture
def config():
  return methods.resolve(methods.get_config())


FREE = base.resumable(methods.fields('memkd'))
RESCORED = base.scoring(methods.fields('memkd'))


def make_model(config, **changes):
  """A model whose method has learned four numbers."""
  params = {'student': {'kernel': np.arange(4, dtype=np.float32).reshape(2, 2)}}
  values = {
    'name': 'bolt',
    'seed': 3,
    'config': config,
    'teacher_sha256': 'random',
    'params': params,
    'train_images': 9,
    'train_sha256': 'abc',
    'diagnosis': {'m1': {'usage': [0.25, 0.75], 'entropy': 0.5}},
    'calibration': Calibration(np.arange(20.0), np.linspace(0, 1, 51)),
  }
  return TrainedModel(**values | changes)


def test_a_run_goes_on_with_free_fields_changed(tmp_path, config):
  workdir = Workdir(tmp_path / 'run')
  workdir.claim(config, FREE)
  config.data.categories = 'tile'
  config.data.dir = '/elsewhere'
  config.train.log_steps = 3
  workdir.claim(config, FREE)
  written = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert written['data']['categories'] == 'tile'
  assert written['model']['memories'] == [1, 2, 3]


def test_a_run_with_other_figures_is_refused_and_changes_nothing(tmp_path, config):
  workdir = Workdir(tmp_path)
  workdir.claim(config, FREE)
  before = (tmp_path / 'config.json').read_bytes()
  config.train.epochs = 7
  config.model.memories = ()
  with pytest.raises(UserError) as error:
    workdir.claim(config, FREE)
  assert 'train.epochs is 200 there and 7 now' in str(error.value)
  assert 'model.memories is [1, 2, 3] there and [] now' in str(error.value)
  assert (tmp_path / 'config.json').read_bytes() == before


def test_results_are_of_the_folders_config(tmp_path, config):
  workdir = Workdir(tmp_path)
  workdir.claim(config, FREE)
  workdir.write_result('bolt', 0, {'metrics': {}, 'counts': {}})
  config.eval.batch_size = 3  # changes no figure
  workdir.claim(config, FREE, RESCORED)
  assert workdir.finished(0) == ['bolt']
  config.anomaly_map.sigma = 2.0
  with pytest.raises(UserError, match=r'anomaly_map\.sigma is 4\.0 there and 2\.0 now'):
    workdir.claim(config, FREE)
  assert workdir.finished(0) == ['bolt']
  workdir.claim(config, FREE, RESCORED)
  assert workdir.finished(0) == []
  assert json.loads((tmp_path / 'config.json').read_text())['anomaly_map']['sigma'] == 2


def test_a_field_that_is_missing_there_is_named(tmp_path, config):
  workdir = Workdir(tmp_path)
  workdir.claim(config, FREE)
  path = tmp_path / 'config.json'
  old = json.loads(path.read_text())
  del old['model']['temperature']
  path.write_text(json.dumps(old | {'sha256': digest(old)}))
  with pytest.raises(UserError, match=r'model\.temperature is null there and 1\.0 now'):
    workdir.claim(config, FREE)


@pytest.mark.parametrize('text', ['{"seed": ', '[]', '[1]', '{}', '{"seed": 0}'])
def test_a_damaged_config_is_named(tmp_path, text, config):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError, match=r'config\.json is damaged'):
    Workdir(tmp_path).claim(config, FREE)


def test_a_value_that_was_changed_by_hand_is_damage(tmp_path, config):
  Workdir(tmp_path).claim(config, FREE)
  path = tmp_path / 'config.json'
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
  with pytest.raises(UserError, match=r'config\.json is damaged \(its checksum is wrong\)'):
    Workdir(tmp_path).claim(config, FREE)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, config):
  (tmp_path / 'run').write_text('')
  with pytest.raises(UserError, match=r'Cannot use .*run as --workdir'):
    Workdir(tmp_path / 'run').claim(config, FREE)


def test_results_come_back_and_mark_the_finished(tmp_path):
  workdir = Workdir(tmp_path)
  assert workdir.read_result('bolt', 0) is None
  result = {'metrics': {'I-AUC': 1.0}, 'counts': {'train': 3}}
  workdir.write_result('bolt', 0, result)
  workdir.write_result('nut', 1, result)
  assert workdir.read_result('bolt', 0) == result
  assert workdir.finished(0) == ['bolt']
  for text in ('{', '[]', '{"metrics": 1}'):
    (tmp_path / 'bolt' / 'seed_0' / 'result.json').write_text(text)
    with pytest.raises(UserError, match=r'result\.json is damaged'):
      workdir.read_result('bolt', 0)


def test_a_bucket_is_refused():
  with pytest.raises(UserError, match=r'ftp://bucket/run: give a local folder'):
    Workdir('ftp://bucket/run')


def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path):
  root = tmp_path / 'run'
  program = (
    'import sys, time\nfrom memkd_jax.workdir import Workdir\n'
    'with Workdir(sys.argv[1]).locked(): print("held", flush=True); time.sleep(600)'
  )
  command = [sys.executable, '-c', program, str(root)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(UserError) as error, Workdir(root).locked():
      pass
    assert f'{root} is in use by process {other.pid} on ' in str(error.value)
    assert 'choose another --workdir' in str(error.value)
    with Workdir(tmp_path / 'another').locked():
      pass
    other.send_signal(signal.SIGKILL)
  with (
    Workdir(root).locked(),
    pytest.raises(UserError, match='is in use by process'),
    Workdir(root).locked(),  # also from within one process, as from a notebook
  ):
    pass
  with Workdir(root).locked():
    pass


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
  workdir = Workdir(tmp_path)
  mine = [tmp_path, workdir.category('bolt', 0), workdir.maps('bolt', 1) / 'test' / 'hole']
  # Of a run that has its folder below this one, and may be going on.
  others = [Workdir(tmp_path / 'other').category('bolt', 0)]
  for folder in mine + others:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / '.memkd_jax-abc.png').write_text('half')
    (folder / 'kept.png').write_text('whole')
  with workdir.locked():
    for folder in mine:
      assert not (folder / '.memkd_jax-abc.png').exists()
      assert (folder / 'kept.png').exists()
  for folder in others:
    assert (folder / '.memkd_jax-abc.png').exists()


def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with Workdir(tmp_path).locked():
    assert 'has no locks' in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'run').write_text('')
  with (
    pytest.raises(UserError, match=r'Cannot use .*run as --workdir'),
    Workdir(tmp_path / 'run').locked(),
  ):
    pass


def test_a_model_comes_back(tmp_path, config):
  config.model.memories = (1, 2)
  workdir, model = Workdir(tmp_path), make_model(config)
  assert not workdir.has_model('bolt', 3)
  workdir.write_model(model)
  assert workdir.has_model('bolt', 3)
  assert workdir.models() == [('bolt', 3)]
  folder = workdir.category('bolt', 3)
  assert sorted(p.name for p in folder.iterdir()) == ['model.json', 'model.safetensors']
  for found in (workdir.read_model('bolt', 3), read_model_folder(folder)):
    assert found.config.to_dict() == config.to_dict()
    np.testing.assert_array_equal(
      found.params['student']['kernel'], model.params['student']['kernel']
    )
    np.testing.assert_array_equal(found.calibration.scores, model.calibration.scores)
    for name in (
      'name',
      'seed',
      'teacher_sha256',
      'train_images',
      'train_sha256',
      'diagnosis',
    ):
      assert getattr(found, name) == getattr(model, name)
  # What only its name makes a model is none.
  (tmp_path / 'bolt' / 'seed_x').mkdir()
  (tmp_path / 'bolt' / 'seed_x' / 'model.json').write_text('{}')
  assert workdir.models() == [('bolt', 3)]


def test_a_calibration_is_written_alone(tmp_path, config):
  workdir, other = Workdir(tmp_path), Calibration(np.arange(5.0), np.linspace(0, 2, 51))
  assert workdir.read_calibration('bolt', 3) is None
  with pytest.raises(UserError, match=r'There is no trained model in .*bolt/seed_3'):
    workdir.write_calibration('bolt', 3, other)
  assert not (tmp_path / 'bolt').exists()
  workdir.write_model(make_model(config, calibration=None))
  assert workdir.read_calibration('bolt', 3) is None
  tensors = (workdir.category('bolt', 3) / 'model.safetensors').read_bytes()
  workdir.write_calibration('bolt', 3, other)
  for found in (
    workdir.read_calibration('bolt', 3),
    workdir.read_model('bolt', 3).calibration,
  ):
    np.testing.assert_array_equal(found.scores, other.scores)
    np.testing.assert_array_equal(found.pixels, other.pixels)
  assert (workdir.category('bolt', 3) / 'model.safetensors').read_bytes() == tensors
  workdir.write_calibration('bolt', 3, None)
  assert workdir.read_calibration('bolt', 3) is None


def rewrite_facts(folder, **changes):
  """Another model.json with a right checksum."""
  facts = json.loads((folder / 'model.json').read_text()) | changes
  facts = {name: value for name, value in facts.items() if value is not ...}
  (folder / 'model.json').write_text(json.dumps(facts | {'sha256': digest(facts)}))


def cut(path):
  path.write_bytes(path.read_bytes()[:-3])


DAMAGED = 'The trained model in {folder} is damaged ({why}'
AWAY = 'There is no trained model in {folder}; train without --mode=evaluate.'


@pytest.mark.parametrize(
  ('damage', 'message', 'why'),
  [
    (lambda folder: cut(folder / 'model.json'), DAMAGED, ''),
    (lambda folder: cut(folder / 'model.safetensors'), DAMAGED, ''),
    (lambda folder: (folder / 'model.json').write_text('[]'), DAMAGED, 'it is no JSON object'),
    (
      lambda folder: (folder / 'model.json').write_text('{"format": 1}'),
      DAMAGED,
      'its checksum is wrong',
    ),
    (
      lambda folder: rewrite_facts(folder, format=2),
      '{folder}/model.json is of format 2, and this release reads 1; use the release',
      '',
    ),
    (lambda folder: rewrite_facts(folder, name=...), DAMAGED, "it lacks 'name'"),
    (lambda folder: rewrite_facts(folder, config=[1]), DAMAGED, ''),
    (lambda folder: rewrite_facts(folder, seed='x'), DAMAGED, ''),
    (lambda folder: rewrite_facts(folder, calibration={}), DAMAGED, 'its scores are not numb'),
    (
      lambda folder: (folder / 'model.safetensors').write_bytes(
        save({'student/kernel': np.zeros((2, 2), np.float32)})
      ),
      DAMAGED,
      'its arrays are not those that model.json was written for',
    ),
    # As a write leaves it that was killed: model.json is the last.
    (lambda folder: (folder / 'model.json').unlink(), AWAY, ''),
    (lambda folder: (folder / 'model.safetensors').unlink(), DAMAGED, ''),
  ],
)
def test_a_model_that_cannot_be_read_is_named(tmp_path, config, damage, message, why):
  workdir = Workdir(tmp_path)
  workdir.write_model(make_model(config))
  folder = workdir.category('bolt', 3)
  damage(folder)
  for read in (
    lambda: workdir.read_model('bolt', 3),
    lambda: read_model_folder(folder),
    lambda: SharedWorkdir(tmp_path).read_model('bolt', 3),
  ):
    with pytest.raises(UserError) as error:
      read()
    assert str(error.value).startswith(message.format(folder=folder, why=why))
    if message == DAMAGED:
      remedy = f'remove {folder}/model.json and run the command that trained it again.'
      assert str(error.value).endswith(remedy)


def test_a_write_that_is_killed_leaves_no_model(tmp_path, config, monkeypatch):
  def killed(*_):
    raise KeyboardInterrupt

  workdir = Workdir(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(model_file, 'write_facts', killed)
    with pytest.raises(KeyboardInterrupt):
      workdir.write_model(make_model(config))
  assert not workdir.has_model('bolt', 3)
  assert workdir.models() == []
  workdir.write_model(make_model(config))
  assert workdir.read_model('bolt', 3).train_images == 9


@pytest.mark.parametrize('depths', ['auto', (0.25, 1.5)])
def test_all_processes_are_told_how_a_models_files_are_read(
  tmp_path, config, monkeypatch, depths
):
  """They exchange JSON, which knows no tuples; what is read is kept by these values."""
  monkeypatch.setattr(hosts, 'on_main', lambda call: json.loads(json.dumps(call())))
  shared = SharedWorkdir(tmp_path)
  assert shared.read_ranges('bolt', 3) is None
  with config.data.ignore_type():
    config.data.depth_range = depths
  shared.own.write_model(make_model(config))
  found = shared.read_ranges('bolt', 3)
  assert found == shared.own.read_ranges('bolt', 3) == ('16', depths)
  assert hash(found)
