"""README's and docs' commands, run in their words, on miniature data and models.

`test_newcomer.py` runs the README's own at full length; what downloads, installs, times or
tests is not run here.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_layouts import LAYOUTS, mvtec_3d
from documented import PAGES, ROOT, lines
from inspection_layouts import LAYOUTS as INSPECTION_LAYOUTS
from PIL import Image

from memkd_jax import main
from memkd_jax.config import values

# They come after the command's own flags, and so override them.
TINY = {
  'data.image_size': 32,
  'model.backbone': 'tiny_basic',
  'model.teacher_weights': 'random',
  'model.memory_items': 5,
  'train.epochs': 1,
  'train.batch_size': 4,
  'train.exemplars': 4,
  'seeds': 0,
}
# Of each benchmark one category that its miniature has.
CATEGORIES = {
  'mvtec': 'bottle',
  'mvtec_ad': 'bottle',
  'mpdd': 'tubes',
  'visa': 'pcb1',
  'mvtec_3d': 'tire',
  'eyecandies': 'CandyCane',
  'mvtec_loco': 'pushpins',
  'mvtec_ad_2': 'can',
  'btad': '01',
  'ksdd': 'fold_0',
  'ksdd2': 'ksdd2',
  'vad': 'vad',
  'real_iad': 'audiojack',
  'dagm': 'Class1',
  'ablations/memories': 'grid',
}
# Where another test, or nobody without a network, a GPU or other hosts runs them.
ELSEWHERE = (
  'pip install',
  'pytest',
  'sphinx',
  'convert_torchvision',
  'memkd weights',
  'train_demo_teacher',
  'benchmark.py',
  'serve',
  'curl',
  'coordinator',
  'torch.hub',
  'MAPS',  # of any other method
  'gcloud',
  'docker',
  'gs://',  # tests/test_bucket_run.py
  's3://',
  'compile-only=v',  # tests/test_compile_only.py
  'docs/figures',  # with an ImageNet teacher
  'datasets check',  # tests/test_datasets_command.py: of a miniature it says what is missing
  'memkd submission',  # tests/deploy/test_submission.py: it needs all images of the server
  'nohup',
)


# What a page takes for granted, from the pages before it.
BEFORE = {
  'predicting.md': (
    'memkd train --config=folder --workdir=runs/parts --config.data.dir=parts '
    '--config.data.categories=bracket --config.train.holdout=0.3',
  ),
  'export.md': (
    'memkd train --config=mvtec --workdir=runs/bottle --config.data.categories=bottle',
  ),
  'running.md': ('memkd train --good=parts --workdir=runs/parts',),
  'tutorial.md': (),
}


FUNCTION = 'memkd() { python -m memkd_jax "$@"; }; '  # installed or not
COMMAND = re.compile(r'(?:python|memkd) ')
TRAINS = re.compile(r'memkd_jax\.main|memkd(?:_jax)? (?:train|evaluate)')


def tiny(line):
  """Flags that make the run of a line small, of those that its method knows."""
  arguments = shlex.split(TRAINS.split(line, maxsplit=1)[1])
  flags, overrides = main._parser().parse_known_args(arguments)
  config = main.load_config(*main._choose_config(flags, overrides)).to_dict()
  known = {'seeds', *values.flatten(config)}
  return ' '.join(f'--config.{name}={value}' for name, value in TINY.items() if name in known)


def adapted(line):
  """The line with what makes it small."""
  if re.search('prepare.tfds', line):
    dataset = line.split('--dataset=')[1].split()[0]
    return f'{line} --categories={CATEGORIES[dataset]}'
  if not TRAINS.search(line):
    return line.replace('IMAGE ...', 'DIR/NAME/test/good/*.png')
  named = re.search(r'--config=(?:configs/)?([a-z0-9_/]+)', line)
  config = named[1] if named else '' if '--good' in line else 'demo'
  if config in CATEGORIES:
    line += f' --config.data.categories={CATEGORIES[config]}'
  elif config == 'folder' and 'data.categories' not in line:
    line += ' --config.data.categories=NAME'
  elif 'joint:mvtec_ad' in line:
    line += ' --config.data.categories=bottle,grid'
  elif config == 'demo':
    line += ' --config.data.categories=brick'
  line = line.replace('data.tile_size=256', 'data.tile_size=16')
  return f'{line} {tiny(line)}'


def documented(page):
  """All of a page that is run, in an order in which each finds what it needs."""
  found = [
    line
    for line in lines(page)
    if COMMAND.search(line) and not any(word in line for word in ELSEWHERE)
  ]
  order = ('prepare.tfds', 'demo_validation.py', 'painted_bumps', TRAINS.pattern, '')
  found.sort(key=lambda line: next(i for i, x in enumerate(order) if re.search(x, line)))
  before = [line for line in BEFORE.get(page.name, ()) if line not in found]
  return list(dict.fromkeys(adapted(line) for line in [*before, *found]))


RUN = [page for page in PAGES if documented(page)]


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
  """Where all pages keep their compiled programs."""
  return tmp_path_factory.mktemp('cache')


def fill(folder, kinds):
  rng = np.random.default_rng(0)
  for kind, number in kinds.items():
    for i in range(number):
      path = folder / kind / f'{i:03}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)


@pytest.fixture
def site(tmp_path, page):
  """A folder with what the page's commands name, and miniature data."""
  for name in ('memkd_jax', 'configs', 'tools', 'benchmarks', 'examples'):
    (tmp_path / name).symlink_to(ROOT / name)
  for name, make in (LAYOUTS | INSPECTION_LAYOUTS).items():
    make(tmp_path / 'datasets' / name)
  text = '\n'.join(documented(page))
  category = {'train/good': 200, 'test/good': 3, 'test/worn': 3}
  if 'folder_3d' in text:
    mvtec_3d(tmp_path / 'DIR', ('tire',))
    (tmp_path / 'new').symlink_to(tmp_path / 'DIR' / 'tire' / 'test')
  else:
    fill(tmp_path / 'DIR' / 'NAME', category)
    fill(tmp_path / 'new', {'good': 3, 'worn': 3})
  for name in ('FOLDER', 'photographs/good'):
    fill(tmp_path / name, {'.': 60})
  if '--good=parts ' in text:
    fill(tmp_path / 'parts', {'.': 60})
  else:
    fill(tmp_path / 'parts' / 'bracket', category)
  return tmp_path


def test_most_commands_have_a_small_form():
  assert sum(len(documented(page)) for page in RUN) > 80


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN, ids=lambda page: page.stem)
def test_every_command_runs(page, site, cache):
  path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
  environment = os.environ | {
    'PATH': path,
    'PYTHONPATH': str(ROOT),
    'HOME': str(site),
    'MEMKD_CACHE': str(cache),
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }
  environment.pop('MEMKD_DATA', None)
  failed, commands = [], documented(page)
  if importlib.util.find_spec('jax2onnx') is None:
    commands = [line for line in commands if '.onnx' not in line]
  for line in commands:
    result = subprocess.run(
      ['bash', '-c', FUNCTION + line.replace('.venv/bin/', '')],
      cwd=site,
      env=environment,
      capture_output=True,
      text=True,
    )
    print(result.returncode, line, flush=True)
    if result.returncode:
      failed.append(f'{line}\n{result.stderr[-1500:]}')
  assert not failed, '\n\n'.join(failed)
