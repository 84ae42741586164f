"""Which trackers there are, what they are told, and what becomes of their failures."""

import json
import sys

import pytest
from quick import train

from memkd_jax import methods, trackers
from memkd_jax.errors import UserError
from memkd_jax.trackers import Trackers
from memkd_jax.trackers.tracker import Place


class Recorder:
  """A user's tracker: keeps what it is told."""

  told = None

  def __init__(self, place):
    self.told.append(('begin', place.experiment, place.name, place.step))

  def write(self, step, values):
    self.told.append(('write', step, dict(values)))

  def finish(self, figures, pictures):
    self.told.append(('finish', dict(figures), dict(pictures)))

  def close(self):
    self.told.append(('close',))


class Failing(Recorder):
  """Its server goes away after the first step."""

  def write(self, step, values):
    if step > 1:
      raise ConnectionError('the server is away')
    super().write(step, values)


@pytest.fixture
def module(monkeypatch):
  """What a user would call the module that has these classes."""
  monkeypatch.setitem(sys.modules, 'my_trackers', sys.modules[__name__])
  monkeypatch.setattr(Recorder, 'told', [])
  return 'my_trackers'


def test_a_users_tracker_is_told_of_every_model(tmp_path, make_category, module, capsys):
  for category in ('bolt', 'nut'):
    make_category(tmp_path / 'data', category)
  flags = f'--config.data.dir={tmp_path / "data"}', f'--config.train.trackers={module}:Recorder'
  code, workdir = train(tmp_path, *flags)
  assert code == 0, capsys.readouterr()
  begun = [told[1:] for told in Recorder.told if told[0] == 'begin']
  assert begun == [('run', 'bolt/seed_0', 0), ('run', 'nut/seed_0', 0)]
  result = json.loads((workdir / 'bolt' / 'seed_0' / 'result.json').read_text())
  figures, pictures = next(told[1:] for told in Recorder.told if told[0] == 'finish')
  costs = {name: value for name, value in result['costs'].items() if value is not None}
  assert figures == result['metrics'] | costs
  assert {'figure', 'curves'} <= pictures.keys()
  assert all(path.read_bytes().startswith(b'\x89PNG') for path in pictures.values())
  assert Recorder.told[-1] == ('close',)


def test_a_tracker_that_fails_ends_no_training(tmp_path, module, capsys):
  place = Place.of(tmp_path / 'bolt', 0, {})
  with Trackers([f'{module}:Failing', f'{module}:Recorder'], place) as told:
    for step in (1, 2, 3):
      told.write(step, {'loss': 0.5})
  assert [t[1] for t in Recorder.told if t[0] == 'write'] == [1, 1, 2, 3]
  assert Recorder.told.count(('close',)) == 1
  said = capsys.readouterr().out
  assert said.count('my_trackers:Failing failed (the server is away)') == 1
  assert said.count('Note:') == 1


def test_what_is_no_tracker_is_told_before_anything_is_trained(tmp_path, make_category, capsys):
  make_category(tmp_path / 'data', 'bolt')
  data = f'--config.data.dir={tmp_path / "data"}'
  for name, remedy in (
    ('tensorbord', 'give some of tensorboard, mlflow, wandb, or MODULE:CLASS'),
    ('nowhere:Tracker', "No module named 'nowhere'"),
    ('json:Tracker', "has no attribute 'Tracker'"),
  ):
    code, workdir = train(tmp_path, data, f'--config.train.trackers={name}')
    assert code == 1
    assert remedy in capsys.readouterr().err
    assert not (workdir / 'bolt').exists()


@pytest.mark.parametrize(
  'name,package', [('tensorboard', 'tensorboardX'), ('mlflow', 'mlflow'), ('wandb', 'wandb')]
)
def test_a_missing_package_is_named(monkeypatch, name, package):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=rf'pip install "memkd_jax\[{name}\]"'):
    trackers.check([name])


def test_a_place_is_in_its_run(tmp_path):
  (tmp_path / 'runs' / 'mvtec').mkdir(parents=True)
  (tmp_path / 'runs' / 'mvtec' / 'config.json').write_text('{}')
  folder = tmp_path / 'runs' / 'mvtec' / 'bottle' / 'seed_0' / 'inputs' / 'rgb'
  place = Place.of(folder, 0, {})
  assert (place.experiment, place.name) == ('mvtec', 'bottle/seed_0/inputs/rgb')


def test_numbers_of_runs_are_kept(tmp_path):
  place = Place.of(tmp_path, 0, {})
  assert place.read_id('mlflow') is None
  place.write_id('mlflow', 'a')
  place.write_id('wandb', 'b')
  assert (place.read_id('mlflow'), place.read_id('wandb')) == ('a', 'b')


def test_the_old_field_is_the_new_one(capsys):
  config = methods.get_config()
  config.train.tensorboard = True
  resolved = methods.resolve(config)
  assert resolved.train.trackers == ('tensorboard',)
  said = capsys.readouterr().out
  assert '--config.train.tensorboard=True is --config.train.trackers=tensorboard now' in said
