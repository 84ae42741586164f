"""memkd datasets: what it lists, says of a folder, and ends with."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
from benchmark_layouts import LAYOUTS as OF_BENCHMARKS
from benchmark_layouts import mvtec_ad
from inspection_layouts import LAYOUTS as OF_INSPECTION

from memkd_jax import main
from memkd_jax.commands import datasets
from memkd_jax.data import inspection
from memkd_jax.data.benchmarks import counts
from memkd_jax.data.datasets import DATASETS
from memkd_jax.runtime import interrupt

pytestmark = pytest.mark.newest

HEADING = ['category', 'train', 'normal', 'anomalous', 'masks', 'size', 'verdict']


@pytest.fixture
def run(capsys):
  """Its exit code, and the lines that it printed."""

  def run_one(*words):
    code = datasets.main([*map(str, words)])
    return code, capsys.readouterr().out.splitlines()

  return run_one


@pytest.fixture
def bottles(tmp_path, monkeypatch):
  """A miniature of one category, which is complete."""
  root = tmp_path / 'mvtec'
  mvtec_ad(root, ('bottle',))
  found = inspection.inspect(root, 'mvtec_ad', ['bottle'], decode=False).categories[0].counts
  numbers = {name: found[name] for name in ('train', 'test_normal', 'test_anomalous')}
  monkeypatch.setattr(counts, '_published', lambda: {('mvtec_ad', 'bottle'): numbers})
  return root


def test_every_benchmark_is_listed_on_a_line(run):
  code, (heading, *lines) = run('list')
  assert code == 0
  for name, dataset in DATASETS.items():
    if dataset.categories:
      (line,) = (line for line in lines if line.split()[:1] == [name])
      assert line.split()[1] == str(len(dataset.categories))
      assert dataset.where in line
      assert line.index('memkd train') == heading.index('command')
  assert '--config=folder --config.data.dir=DIR' in lines[-1]
  assert '--good=DIR' in lines[-1]


@pytest.mark.parametrize('name', [n for n, d in DATASETS.items() if not d.is_listed])
def test_the_command_that_is_named_trains_on_the_data_set(name):
  config = datasets._train(name, DATASETS[name])[2].removeprefix('--config=')
  assert main.load_config(config).data.dataset == name


def test_what_is_complete(run, bottles):
  code, lines = run('check', bottles, '--categories=bottle')
  assert code == 0
  assert lines[0].startswith(f'{bottles} holds mvtec_ad: 1 of 15 categories.')
  assert lines[2].split() == HEADING
  assert lines[3].split()[:2] == ['bottle', '9']
  assert lines[3].endswith('32 x 32  complete')
  assert len(lines) == 6
  said, command = lines[-1].split(' To train on it: ')
  assert said == 'Nothing is wrong.'
  words = shlex.split(command)
  assert words[:2] == ['memkd', 'train']
  flags, fields = main._parser().parse_known_args(words[2:])
  config = main.load_config(*main._choose_config(flags, fields))
  assert (config.data.dir, config.data.categories) == (str(bottles), 'bottle')


def test_faults_are_named_with_paths(run, bottles, tmp_path):
  images = sorted((bottles / 'bottle' / 'train' / 'good').iterdir())[:5]
  for image in images:
    image.write_bytes(image.read_bytes()[:99])
  code, lines = run('check', bottles, '--categories=bottle')
  assert code == 1
  begin = lines.index('Broken images: 5')
  named = [line for line in lines[begin:] if line.startswith('  bottle/train/good/00')]
  assert len(named) == 3
  assert lines[-3:] == ['  and 2 more', '', '5 faults in 1 of 1 category.']

  file = tmp_path / 'new' / 'found.json'
  code, lines = run('check', bottles, '--categories=bottle', '--all', f'--json={file}')
  assert code == 1
  assert '  and 2 more' not in lines
  found = json.loads(file.read_text())
  assert [f['path'] for f in found['findings']] == list(map(str, images))
  assert {f['kind'] for f in found['findings']} == {'broken image'}
  (category,) = found['categories']
  assert (category['faults'], category['published']['train']) == (5, 9)
  assert category['sizes'] == [[32, 32, 9 + 3 + 4 - 5]]

  code, lines = run('check', bottles, '--categories=bottle', '--fast')
  assert (code, 'size' in lines[2]) == (0, False)
  assert lines[-1].startswith('Nothing is wrong (no image was decoded). To train on it: ')


def test_what_is_missing_and_what_is_worth_knowing(run, bottles):
  (bottles / 'bottle' / 'train' / 'good' / 'left.part').touch()
  code, lines = run('check', bottles, '--fast')
  assert code == 1
  assert lines[0].endswith('If these are images of your own, add --dataset=folder.')
  assert [line.split()[-1] for line in lines[3:18]] == ['complete', *['missing'] * 14]
  assert 'Missing categories: 14' in lines
  begin = lines.index('Note: files that no split lists: 1')
  assert lines[begin + 1] == '  bottle/train/good/left.part'
  assert lines[-1].startswith('14 faults in 14 of 15 categories (no image was decoded).')
  assert f'--config.data.dir={bottles} --config.data.categories=bottle' in lines[-1]
  code, lines = run('check', bottles, '--dataset=folder')
  assert (code, len(lines)) == (0, 9)
  assert 'in the layout folder: 1 category.' in lines[0]


@pytest.mark.parametrize('name', [*OF_BENCHMARKS, *OF_INSPECTION])
def test_a_screen_is_enough(run, tmp_path, name):
  (OF_BENCHMARKS | OF_INSPECTION)[name](tmp_path)
  code, lines = run('check', tmp_path, '--fast')
  known = len(DATASETS[name].categories)
  there = min(known, {'btad': 3, 'ksdd': 3}.get(name, 2))
  assert lines[0].startswith(f'{tmp_path} holds {name}: {there} of {known} categor')
  # A miniature is at fault, unless all of it is there and no numbers are published.
  assert code == (name != 'ksdd')
  assert (f'  {DATASETS[name].where}.' in lines) == (there < known)
  note = 4 * any('training images that are left out' in line for line in lines)
  assert len(lines) < known + 18 + note


def test_images_without_a_label_are_counted(run, tmp_path):
  OF_BENCHMARKS['mvtec_ad_2'](tmp_path)
  lines = run('check', tmp_path, '--fast')[1]
  assert lines[2].split()[-3:] == ['masks', 'unlabelled', 'verdict']
  assert lines[3].split()[:7] == ['can', '9', '2', '3', '3', '3', '6']


@pytest.mark.parametrize(
  'words',
  [
    [],
    ['chek'],
    ['check'],
    ['check', '.', '--dataset=nope'],
    ['list', 'x'],
    ['check', '--fst'],
  ],
)
def test_wrong_usage(words, capsys):
  with pytest.raises(SystemExit) as ended:
    datasets.main(words)
  assert ended.value.code == 2
  (sentence,) = capsys.readouterr().err.splitlines()
  assert sentence.startswith('memkd datasets')


def test_what_cannot_be_checked_is_one_sentence(bottles, capsys):
  for words in (['nowhere'], [bottles, '--categories=nut'], [bottles / 'bottle']):
    assert datasets.main(['check', *map(str, words)]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith('datasets: ')
  assert f'memkd datasets check {bottles} --categories=bottle' in sentence
  image = next((bottles / 'bottle' / 'train' / 'good').iterdir())
  assert datasets.main(['check', str(bottles), '--fast', f'--json={image}/found.json']) == 1
  assert f'{image}' in capsys.readouterr().err


def test_a_signal_ends_it(bottles, monkeypatch, capsys):
  def signalled(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    return inspection.Look()

  monkeypatch.setattr(inspection, 'look_at', signalled)
  assert datasets.main(['check', str(bottles)]) == interrupt.EXIT_CODE
  assert 'datasets: stopped by SIGTERM.' in capsys.readouterr().err


def test_it_needs_no_jax(bottles):
  program = (
    'import sys\n'
    'from memkd_jax import __main__ as memkd\n'
    'code = memkd.main(sys.argv[1:])\n'
    "assert not {'jax', 'flax', 'optax', 'orbax', 'matplotlib'} & sys.modules.keys()\n"
    'sys.exit(code)'
  )
  command = [sys.executable, '-c', program, 'datasets', 'check', str(bottles)]
  result = subprocess.run(command, capture_output=True, text=True)
  assert (result.returncode, 'Traceback' in result.stderr) == (1, False), result.stderr


def test_real_images(shared, run):
  code, lines = run('check', shared / 'data' / 'magnetic_tile', '--fast')
  assert code == 0
  assert lines[3].split()[1:5] == ['240', '80', '388', '388']
