"""The command `memkd`: what it starts, how fast, and how flags may be spelled."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import __main__ as memkd
from memkd_jax import calibrate, cli, main
from memkd_jax.commands import weights
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.teachers import conversion

ROOT = Path(__file__).parents[1]
SLOW = ('jax', 'numpy', 'ml_collections', 'absl')


def test_help_lists_every_command(capsys):
  with pytest.raises(SystemExit) as ended:
    memkd.main(['--help'])
  shown = capsys.readouterr().out
  assert ended.value.code == 0
  for name, command in memkd.COMMANDS.items():
    assert f'    {name}' in shown and command.help in shown


@pytest.mark.parametrize('arguments', [[], ['trian'], ['--bogus']])
def test_no_command_is_one_sentence(capsys, arguments):
  with pytest.raises(SystemExit) as ended:
    memkd.main(arguments)
  assert ended.value.code == 2
  (sentence,) = capsys.readouterr().err.splitlines()
  assert sentence.startswith('memkd: ')


@pytest.mark.parametrize('flag', ['--help', '--version'])
def test_it_starts_at_once(flag):
  check = f'import atexit, sys\natexit.register(lambda: print({SLOW} & sys.modules.keys()))\n'
  check = check.replace(str(SLOW), str(set(SLOW)))
  program = f'{check}from memkd_jax import __main__ as memkd\nmemkd.main([{flag!r}])'
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert result.stdout.endswith('set()\n'), result
  durations = []
  for _ in range(3):
    began = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'memkd_jax', flag], cwd=ROOT, check=True)
    durations.append(time.perf_counter() - began)
  assert min(durations) < 1  # seconds, on a machine that is busy; 0.1 on one that is not


# Those of main list the fields of all methods, each of which stands beside its computations.
@pytest.mark.parametrize('name', [n for n, c in memkd.COMMANDS.items() if c.module != 'main'])
def test_help_of_a_command_needs_no_jax(name):
  program = (
    'import sys\n'
    'from memkd_jax import __main__ as memkd\n'
    'try: memkd.main(sys.argv[1:])\n'
    'finally: assert "jax" not in sys.modules'
  )
  command = [sys.executable, '-c', program, name, '--help']
  result = subprocess.run(command, capture_output=True, text=True)
  assert (result.returncode, result.stderr) == (0, '')
  assert result.stdout.startswith('usage: memkd ')


def test_a_subcommand_gets_its_flags(monkeypatch):
  given = []
  monkeypatch.setattr(main, 'main', given.append)
  assert memkd.main(['evaluate', '--config=mvtec', '--help']) == 0
  assert given == [['--config=mvtec', '--help', '--mode=evaluate']]


def test_help_lists_the_fields(capsys):
  with pytest.raises(SystemExit):
    main.main(['--help'])
  shown = capsys.readouterr().out
  for name in ('data.dir', 'model.memory_items', 'anomaly_map.sigma'):
    assert shown.count(f'  --config.{name}=') == 1
  assert '  --config.train.epochs=200\n      Number of passes' in shown


@pytest.fixture
def parser():
  parser = cli.Parser('test', 'A test.')
  parser.add_argument('--batch-size', type=int)
  parser.add_argument('--dump-maps', action=argparse.BooleanOptionalAction, default=False)
  parser.add_argument('--no-heat-maps', action='store_true')
  parser.add_argument('files', nargs='*')
  return parser


@pytest.mark.parametrize(
  ('words', 'name', 'value'),
  [
    (['--batch_size=3'], 'batch_size', 3),
    (['--batch_size', '3'], 'batch_size', 3),
    (['--dump_maps'], 'dump_maps', True),
    (['--dump-maps=true'], 'dump_maps', True),
    (['--dump_maps=1'], 'dump_maps', True),
    (['--dump-maps', '--dump-maps=False'], 'dump_maps', False),
    (['--dump-maps', '--nodump_maps'], 'dump_maps', False),
    (['--dump-maps', '--no-dump-maps'], 'dump_maps', False),
    (['--noheat_maps'], 'no_heat_maps', True),
    (['a_b.png', '--', '--c_d.png'], 'files', ['a_b.png', '--c_d.png']),
  ],
)
def test_old_spellings_are_understood(parser, words, name, value):
  assert getattr(parser.parse_args(words), name) == value


@pytest.mark.parametrize('word', ['--batch', '--batch-size=x', '--dump-maps=maybe', '--x_y=\n'])
def test_a_wrong_flag_is_one_sentence(parser, capsys, word):
  with pytest.raises(SystemExit) as ended:
    parser.parse_args([word])
  assert ended.value.code == 2
  (sentence,) = capsys.readouterr().err.splitlines()
  assert sentence.startswith('memkd test: ')


def test_exit_codes(capsys):
  def fail(error):
    raise error

  assert cli.exit_code('name', lambda: None) == 0
  assert cli.exit_code('name', lambda: 3) == 3
  assert cli.exit_code('name', lambda: fail(UserError('Wrong\n.'))) == 1
  assert capsys.readouterr().err == 'name: Wrong\\n.\n'
  stop = interrupt.Interrupted('SIGINT')
  assert cli.exit_code('name', lambda: fail(stop), '; go on') == interrupt.EXIT_CODE
  assert capsys.readouterr().err == '\nname: stopped by SIGINT; go on.\n'


def test_a_config_may_be_named(tmp_path, monkeypatch):
  named = main.load_config('mvtec:rd', ['--config.train.epochs=3'])
  assert (named.data.dataset, named.model.memories, named.train.epochs) == ('mvtec_ad', (), 3)
  assert main.load_config('ablations/memories').sweep.paper == 'table6_memories'
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'visa').mkdir()  # a folder is no config
  assert main.load_config('visa').data.dataset == 'visa'
  (tmp_path / 'mvtec').write_text((ROOT / 'configs' / 'mpdd.py').read_text())
  assert main.load_config('mvtec').data.dataset == 'mpdd'
  with pytest.raises(UserError, match=r'there is no file gone, .* demo, .*, ablations/kd,'):
    main.load_config('gone:rd')


def test_no_config_is_forgotten():
  for path in (ROOT / 'configs').rglob('*.py'):
    if path.stem != '__init__':
      main.load_config(str(path.relative_to(ROOT / 'configs').with_suffix('')))


def test_weights_are_stored_in_what_can_be_written():
  (action,) = (a for a in weights._parser()._actions if a.dest == 'dtype')
  assert action.choices == conversion.DTYPES


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_quick_config, make_category):
  root = tmp_path_factory.mktemp('calibrate')
  make_category(root / 'data', train=12)
  config = make_quick_config(root / 'data')
  run_config(config, root / 'run')
  return root


def calibrated(root, good, capsys):
  assert calibrate.main([f'--workdir={root}', f'--good={good}']) == 0
  return capsys.readouterr().out.splitlines()


def test_calibrate(run, rng, tmp_path, capsys):
  for i in range(20):
    pixels = rng.integers(0, 128, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{i}.png')
  before, now, number = calibrated(run / 'run', tmp_path, capsys)
  assert before == 'Before: no threshold.'
  detector = memkd_jax.load(run / 'run')
  assert f'Threshold {detector.threshold.value:.4f}: of normal images 4.8% are' in now
  assert number == 'Wrote the threshold of bolt, from 20 images.'
  paths = sorted(tmp_path.iterdir())
  result = detector([np.asarray(Image.open(path)) for path in paths])
  np.testing.assert_allclose(np.sort(result.scores), detector.calibration.scores)
  assert not result.decisions.sum() > 1

  (tmp_path / '0.png').unlink()
  before, now, number = calibrated(run / 'run', tmp_path, capsys)
  assert f'Threshold {detector.threshold.value:.4f}' in before
  assert 'from 19 images' in number

  # A model's folder alone.
  copy = run / 'copy'
  copy.mkdir()
  for name in (model.FACTS, model.TENSORS):
    (copy / name).write_bytes((run / 'run' / 'bolt' / 'seed_0' / name).read_bytes())
  assert 'from 1 image.' in calibrated(copy, tmp_path / '1.png', capsys)[-1]
  assert len(memkd_jax.load(copy).calibration.scores) == 1


def test_calibrate_without_images(run, tmp_path, capsys):
  model_file = run / 'run' / 'bolt' / 'seed_0' / model.FACTS
  before = model_file.read_bytes()
  (tmp_path / 'broken.png').write_bytes(b'')
  for good, message in (('none', 'does not exist'), ('broken.png', 'is not a readable image')):
    assert calibrate.main([f'--workdir={run / "run"}', f'--good={tmp_path / good}']) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
  assert model_file.read_bytes() == before
