import errno
import json
import signal
import subprocess
import sys

import pytest

from memkd_jax import config as base
from memkd_jax.errors import UserError
from memkd_jax.files import lock
from memkd_jax.workdir import Workdir


def test_a_run_goes_on_with_free_fields_changed(tmp_path):
  workdir, config = Workdir(tmp_path / 'run'), base.resolve(base.get_config())
  workdir.claim(config)
  config.data.categories = 'tile'
  config.data.dir = '/elsewhere'
  config.train.log_steps = 3
  workdir.claim(config)
  written = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert written['data']['categories'] == 'tile'
  assert written['model']['memories'] == [1, 2, 3]


def test_a_run_with_other_figures_is_refused_and_changes_nothing(tmp_path):
  workdir, config = Workdir(tmp_path), base.resolve(base.get_config())
  workdir.claim(config)
  before = (tmp_path / 'config.json').read_bytes()
  config.train.epochs = 7
  config.model.memories = ()
  with pytest.raises(UserError) as error:
    workdir.claim(config)
  assert 'train.epochs is 200 there and 7 now' in str(error.value)
  assert 'model.memories is [1, 2, 3] there and [] now' in str(error.value)
  assert (tmp_path / 'config.json').read_bytes() == before


def test_a_field_that_is_new_had_its_default(tmp_path):
  workdir, config = Workdir(tmp_path), base.resolve(base.get_config())
  workdir.claim(config)
  path = tmp_path / 'config.json'
  old = json.loads(path.read_text())
  del old['model']['temperature']
  path.write_text(json.dumps(old))
  workdir.claim(config)
  path.write_text(json.dumps(old))
  config.model.temperature = 0.5
  with pytest.raises(UserError, match=r'model\.temperature is 1\.0 there and 0\.5 now'):
    workdir.claim(config)


@pytest.mark.parametrize('text', ['{"seed": ', '[]'])
def test_a_damaged_config_is_named(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError, match=r'config\.json is damaged'):
    Workdir(tmp_path).claim(base.resolve(base.get_config()))


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
  (tmp_path / 'run').write_text('')
  with pytest.raises(UserError, match=r'Cannot use .*run as --workdir'):
    Workdir(tmp_path / 'run').claim(base.resolve(base.get_config()))


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
  with pytest.raises(UserError, match=r'--workdir=gs://bucket/run: a run needs a local folder'):
    Workdir('gs://bucket/run')


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


def test_a_config_is_read_back(tmp_path):
  config = base.get_config()
  config.model.memories = (1, 2)
  config.train.epochs = 7
  with config.unlocked():
    config.model.teacher_sha256 = 'random'
  Workdir(tmp_path).claim(config)
  path = tmp_path / 'config.json'
  found = Workdir(tmp_path).read_config()
  assert found.to_dict() == config.to_dict()
  fields = json.loads(path.read_text())
  del fields['train']['holdout'], fields['sha256']  # as older runs have it
  path.write_text(json.dumps(fields))
  assert Workdir(tmp_path).read_config().train.holdout == 0
  for damage in (
    json.dumps(fields | {'sha256': '0'}),
    '{"model": {"nonsense": 1}}',
    '{"train": {"epochs": "x"}}',
    '[1]',
    '{',
  ):
    path.write_text(damage)
    with pytest.raises(UserError, match=r'config\.json is damaged'):
      Workdir(tmp_path).read_config()
