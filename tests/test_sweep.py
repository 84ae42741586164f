"""Ablations: the variants, their table, and every config of configs/ablations."""

import importlib.util
import json
from pathlib import Path

import pytest

from memkd_jax import main, methods, sweep
from memkd_jax.configs import compare
from memkd_jax.errors import UserError
from memkd_jax.teachers.kept_features import KeptFeatures

pytestmark = pytest.mark.newest

ABLATIONS = sorted((Path(__file__).parents[1] / 'configs' / 'ablations').glob('[!_]*.py'))


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def test_there_are_ablations():
  assert {p.stem for p in ABLATIONS} >= {
    'backbones',
    'stages',
    'memories',
    'memory_size',
    'lambdas',
    'exemplars',
    'temperature',
    'fusion',
    'kd',
    'memory_init',
    'm3_target',
    'systems',
    'orth',
    'memory_layout',
    'hard_mining',
    'hardest',
    'bottleneck_dropout',
    'feature_noise',
    'adapt_teacher',
    'image_score',
    'normalize',
    'schedule',
    'stop',
  }


@pytest.mark.parametrize('path', ABLATIONS, ids=lambda p: p.stem)
def test_every_variant_resolves(path):
  config = load(path)
  variants = sweep.variants(config)
  assert len(variants) == len(config.sweep.variants) >= 2
  resolved = [json.loads(methods.resolve(v).to_json()) for v in variants.values()]
  # Two variants that are the same would be trained twice for nothing.
  assert len({json.dumps(v) for v in resolved}) == len(variants)
  assert all(not v['sweep']['variants'] for v in resolved)
  assert len({sweep.folder_name(name) for name in variants}) == len(variants)


def test_variants_are_run_reported_and_skipped_when_finished(
  tiny_config, tmp_path, make_category, capsys
):
  make_category(tmp_path / 'data')
  tiny_config.train.epochs = 1
  tiny_config.train.batch_size = 4
  tiny_config.sweep.paper = 'table6_memories'
  tiny_config.sweep.variants = (
    ('1+2+3', ()),
    ('none', (('model.memories', ()), ('train.log_steps', 1))),
    ('missing weights', (('model.teacher_weights', str(tmp_path / 'gone.safetensors')),)),
  )
  summary = sweep.run_sweep(tiny_config, tmp_path / 'run')
  assert json.loads((tmp_path / 'run' / 'sweep.json').read_text()) == summary
  assert list(summary['failed']) == ['missing weights']
  table = (tmp_path / 'run' / 'sweep.md').read_text()
  lines = {line.split('|')[1].strip(): line for line in table.splitlines() if '|' in line}
  cells = [cell.strip() for cell in lines['variant (%)'].split('|')[1:-1]]
  assert cells[:3] == ['variant (%)', 'I-AUC', 'paper']
  figures = summary['variants']['1+2+3']['mean']
  row = [cell.strip() for cell in lines['1+2+3'].split('|')[1:-1]]
  assert row[:3] == ['1+2+3', f'{100 * figures["I-AUC"]:.1f}', '99.6']
  assert row[cells.index('P-PRO') + 1] == '94.5'
  assert lines['none'].split('|')[3].strip() == '-'
  assert 'missing weights failed: There is no teacher at' in table
  assert 'MEAN NOTHING' in table
  assert (tmp_path / 'run' / 'none' / 'report.html').exists()
  capsys.readouterr()
  again = sweep.run_sweep(tiny_config, tmp_path / 'run')
  assert capsys.readouterr().out.count('bolt: finished already') == 2
  for name in ('1+2+3', 'none'):
    assert again['variants'][name]['per_seed'] == summary['variants'][name]['per_seed']


@pytest.mark.parametrize(
  'overrides', [(('model.nothing', 1),), (('nothing.at_all', 1),), (('train.epochs', 'many'),)]
)
def test_an_override_that_cannot_be_is_named(tiny_config, overrides):
  tiny_config.sweep.variants = (('odd', overrides),)
  with pytest.raises(UserError, match=r'sweep\.variants: odd cannot be made'):
    sweep.variants(tiny_config)


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (('a', 'a'), 'a would not have the folder a to itself'),
    (('x_1', 'x: 1'), 'x: 1 would not have the folder x_1 to itself'),
    (('..',), r'\.\. would not have the folder \.\. to itself'),
    (('.',), r'\. would not have the folder \. to itself'),
  ],
  ids=['twice', 'alike', 'above', 'own'],
)
def test_every_variant_has_a_folder_of_its_own(tiny_config, names, message):
  tiny_config.sweep.variants = tuple((name, ()) for name in names)
  with pytest.raises(UserError, match=rf'sweep\.variants: {message}; rename it\.'):
    sweep.variants(tiny_config)


def test_methods_share_what_is_set_and_keep_what_is_theirs():
  config = compare.get_config()
  config.train.epochs, config.seeds, config.data.image_size = 3, (4, 5), 64
  config.model.memories, config.method.name = (1, 2), 'memkd'
  found = sweep.variants(config)
  assert found.keys() == methods.METHODS.keys()
  for name, variant in found.items():
    assert variant.method.name == name
    assert (variant.seeds, variant.data.image_size) == ((4, 5), 64)
    assert variant.train.holdout == 0.1
    assert variant.train.get('epochs', 3) == 3
    methods.resolve(variant)
  assert found['memkd'].model.memories == (1, 2)
  assert found['rd'].model.memories == ()  # else it would be MemKD
  assert 'share' in found['knn'].method and 'memories' not in found['knn'].model


def test_what_the_command_line_sets_counts_for_all_though_it_is_the_default_of_one():
  flags = ['--config.train.epochs=200', '--config.data.image_size=64']
  found = sweep.variants(main.load_config('compare:memkd,cfa,knn', flags))
  assert [found[name].train.get('epochs') for name in found] == [200, 200, None]
  assert all(variant.sweep.given == () for variant in found.values())
  anew = sweep.variants(main.load_config('compare:memkd,cfa', flags[1:]))
  assert anew['cfa'].train.epochs != 200


def test_the_methods_of_a_comparison_can_be_chosen():
  assert list(sweep.variants(compare.get_config('knn,rd'))) == ['knn', 'rd']
  with pytest.raises(UserError, match=r'method\.name=nothing'):
    compare.get_config('knn,nothing')


def test_methods_are_compared_in_one_report(tiny_config, tmp_path, make_category, monkeypatch):
  taken, take = [], KeptFeatures.take

  def counting(self, teacher, images, depth, compute, **room):
    def counted():
      taken.append(len(images))
      return compute()

    return take(self, teacher, images, depth, counted, **room)

  monkeypatch.setattr(KeptFeatures, 'take', counting)
  make_category(tmp_path / 'data')
  config = compare.get_config('knn,padim,rd')
  config.data = tiny_config.data
  config.model.backbone = tiny_config.model.backbone
  config.model.teacher_weights = tiny_config.model.teacher_weights
  config.train.holdout, config.train.calibration = 0.0, 'holdout'
  config.eval.batch_size, config.train.batch_size, config.train.epochs = 2, 4, 1
  summary = sweep.run_sweep(config, tmp_path / 'run')
  assert summary['failed'] == {}
  assert [r['method'] for r in summary['variants'].values()] == ['kNN', 'PaDiM', 'RD']
  for results in summary['variants'].values():
    costs = results['costs']['bolt']
    assert costs.keys() >= {'fit_seconds', 'model_bytes', 'images_per_second'}
    assert costs.pop('fit_memory', 0) >= 0
    assert min(costs.values()) > 0
    assert results['defects']['bolt']['hole']['I-AUC'] == results['mean']['I-AUC']
  memory = (tmp_path / 'run' / 'knn' / 'bolt' / 'seed_0' / 'model.safetensors').stat().st_size
  assert summary['variants']['knn']['costs']['bolt']['model_bytes'] < memory
  page = (tmp_path / 'run' / 'sweep.html').read_text()
  assert len(taken) == 1  # the teacher saw the training images once
  assert page.count('alt="bolt: ') == 5  # images, truth, and three kinds of maps


def mappings():
  """Of this process's memory; 0 where the system does not tell."""
  path = Path('/proc/self/maps')
  return path.read_text().count('\n') if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize('path', ABLATIONS, ids=lambda p: p.stem)
def test_every_ablation_runs_from_end_to_end(tiny_config, tmp_path, make_category, path):
  make_category(tmp_path / 'data')
  config = load(path)
  tiny_config.sweep = config.sweep
  tiny_config.train.epochs = 1
  if config.train.holdout:
    tiny_config.train.holdout = 0.3  # of ten images
  variants = []
  for name, overrides in config.sweep.variants:
    # Small stand-ins for the four backbones, and for many epochs.
    small = {
      'model.backbone': 'tiny_basic' if '50' not in name else 'tiny_bottleneck',
      'train.epochs': 1,
    }
    variants.append((name, tuple((f, small.get(f, value)) for f, value in overrides)))
  tiny_config.sweep.variants = tuple(variants)
  before = mappings()
  summary = sweep.run_sweep(tiny_config, tmp_path / 'run')
  assert mappings() - before < 3000  # of two trainings at most, however many there were
  assert summary['failed'] == {}
  for results in summary['variants'].values():
    assert len(results['mean']) == 7


def test_the_table_of_a_run_that_failed_as_a_whole(tiny_config, tmp_path, monkeypatch):
  def fail(*_, **options):
    raise UserError('nothing works')

  monkeypatch.setattr(sweep, 'run_config', fail)
  tiny_config.sweep.variants = (('a', ()), ('b', ()))
  summary = sweep.run_sweep(tiny_config, tmp_path / 'run')
  assert summary['failed'] == {'a': 'nothing works', 'b': 'nothing works'}
  assert 'a failed: nothing works' in (tmp_path / 'run' / 'sweep.md').read_text()
