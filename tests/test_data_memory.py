"""Runs whose decoded images are on the disk give the bits of those in memory."""

import pytest
from quick import QUICK
from whole_runs import assert_same, log_of, tiny_of

from memkd_jax import main
from memkd_jax.files.stored_rows import is_stored
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.training import feature_cache
from memkd_jax.training.loop import StepLogger
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_category):
  folder = tmp_path_factory.mktemp('data')
  for name in ('bolt', 'nut'):
    make_category(folder, name)
  return folder


@pytest.fixture
def config(data, make_config):
  """One that saves each step."""
  config = make_config(data)
  config.data.categories = 'bolt'
  config.train.checkpoint_steps, config.model.memories = 1, ()  # RD compiles soonest
  return config


@pytest.fixture
def seen(monkeypatch):
  """Whether images were read from a file, of each training."""
  found, init = [], feature_cache.FeatureCache.__init__

  def watched(self, devices, images, *others):
    found.append(is_stored(images))
    init(self, devices, images, *others)

  monkeypatch.setattr(feature_cache.FeatureCache, '__init__', watched)
  return found


def losses(workdir):
  lines = log_of(workdir)  # without times, and what devices say of their memory
  return [{k: v for k, v in x.items() if 'second' not in k and 'bytes' not in k} for x in lines]


def figures(workdir, category='bolt'):
  result = Workdir(workdir).read_result(category, 0)
  return {
    name: result[name]
    for name in ('metrics', 'counts', 'images', 'decisions')
    if name in result
  }


def test_a_training_from_the_disk_is_that_from_memory_also_when_resumed(
  config, tmp_path, seen, monkeypatch, capsys
):
  config.train.holdout = 0.1
  config.data.memory = 'host'
  run_config(config, tmp_path / 'host')
  config.data.memory = 'disk'
  begin, steps = StepLogger.begin, []

  def interrupted(self, step, terms):
    steps.append(step)
    if step == 3:
      raise interrupt.Interrupted
    begin(self, step, terms)

  with monkeypatch.context() as patch:
    patch.setattr(StepLogger, 'begin', interrupted)
    with pytest.raises(interrupt.Interrupted):
      run_config(config, tmp_path / 'disk')
  assert 'decoded images are kept on the disk' in capsys.readouterr().out
  monkeypatch.setattr(
    StepLogger, 'begin', lambda *given: steps.append(given[1]) or begin(*given)
  )
  run_config(config, tmp_path / 'disk')
  assert steps[:3] == [1, 2, 3] and steps[3] > 1 and steps[-1] == steps_of(config)
  assert seen[0] is False and all(seen[1:])
  assert_same(parameters(tmp_path / 'disk'), parameters(tmp_path / 'host'))
  assert figures(tmp_path / 'disk') == figures(tmp_path / 'host')
  assert losses(tmp_path / 'disk') == losses(tmp_path / 'host')
  assert_same(leftovers(tmp_path / 'disk'), leftovers(tmp_path / 'host'))


def steps_of(config):
  return config.train.epochs * 9 // config.train.batch_size  # one of ten is held out


def parameters(workdir):
  return Workdir(workdir).read_model('bolt', 0).params


def leftovers(workdir):
  """All files of a run, whose images have no name."""
  return sorted(str(path.relative_to(workdir)) for path in workdir.iterdir())


@pytest.mark.slow
def test_features_on_the_disk_are_those_in_memory(config, tmp_path, monkeypatch, capsys):
  config.data.memory = 'host'
  for place in ('host', 'disk'):
    config.train.cache_features = place
    run_config(config, tmp_path / place)
    assert f'features are kept on the {place}' in capsys.readouterr().out
  assert losses(tmp_path / 'disk') == losses(tmp_path / 'host')
  assert_same(parameters(tmp_path / 'disk'), parameters(tmp_path / 'host'))


@pytest.mark.parametrize(
  ('method', 'options'),
  [
    ('patchcore', {'method.share': 0.5, 'train.holdout': 0.2}),
    ('knn', {'data.tiles': (2, 2)}),
    *(
      pytest.param('knn', options, marks=pytest.mark.slow)
      for options in (
        {'train.calibration': 'folds', 'train.folds': 2},
        {'data.tiles': (2, 1), 'data.tile_models': 'position'},
        {'data.resize': 'fit', 'train.holdout': 0.3, 'anomaly_map.normalize': 'stage'},
        {'train.scope': 'joint', 'train.balance': 'category'},
      )
    ),
  ],
)
def test_other_ways_to_learn_give_the_same(method, options, config, tmp_path):
  config = tiny_of(method, config, **options)
  if 'train.scope' in options:
    config.data.categories = 'bolt,nut'
  for place in ('host', 'disk'):
    config.data.memory = place
    run_config(config, tmp_path / place)
  assert_same(parameters(tmp_path / 'disk'), parameters(tmp_path / 'host'))
  assert figures(tmp_path / 'disk') == figures(tmp_path / 'host')
  scores = 'bolt/seed_0/scores.csv'
  assert (tmp_path / 'disk' / scores).read_text() == (tmp_path / 'host' / scores).read_text()


def test_too_little_disk_ends_in_a_sentence(data, tmp_path, capsys):
  flags = [f'--config.data.dir={data}', '--config.data.categories=bolt']
  flags += ['--config.data.memory=disk', '--config.data.disk_limit=0.00001']
  assert main.main([*QUICK, f'--workdir={tmp_path / "run"}', *flags]) == 1
  output = capsys.readouterr()
  assert 'bolt failed: --config.data.memory=disk: 16 decoded images need 0.00 GB' in output.out
  flags += [f'--config.data.scratch={tmp_path / "none"}']
  assert main.main([*QUICK, f'--workdir={tmp_path / "run2"}', *flags]) == 1
  assert 'none is no folder' in capsys.readouterr().out
