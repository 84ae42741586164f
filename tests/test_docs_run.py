"""README's and docs' commands, run in their words, on miniature data and models.

`test_newcomer.py` runs the README's own at full length; what downloads, installs, times or
tests is not run here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_layouts import LAYOUTS
from documented import PAGES, ROOT, lines
from inspection_layouts import LAYOUTS as INSPECTION_LAYOUTS
from PIL import Image

# They come after the command's own flags, and so override them.
TINY = (
  '--config.data.image_size=32 --config.model.backbone=tiny_basic '
  '--config.model.teacher_weights=random --config.model.memory_items=5 '
  '--config.train.epochs=1 --config.train.batch_size=8 --config.train.exemplars=4 '
  '--config.seeds=0'
)
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
  'nohup',
)


FUNCTION = 'memkd() { python -m memkd_jax "$@"; }; '  # installed or not
COMMAND = re.compile(r'(?:python|memkd) ')
TRAINS = re.compile(r'memkd_jax\.main|memkd(?:_jax)? (?:train|evaluate)')


def adapted(line):
  """The line with what makes it small."""
  if re.search('prepare.tfds', line):
    dataset = line.split('--dataset=')[1].split()[0]
    return f'{line} --categories={CATEGORIES[dataset]}'
  if not TRAINS.search(line):
    return line.replace('IMAGE ...', 'DIR/NAME/test/good/*.png')
  named = re.search(r'--config=(?:configs/)?([a-z0-9_/]+)', line)
  config = named[1] if named else 'demo'
  if config in CATEGORIES:
    line += f' --config.data.categories={CATEGORIES[config]}'
  elif config == 'folder' and 'data.categories' not in line:
    line += ' --config.data.categories=NAME'
  elif config == 'demo':
    line += ' --config.data.categories=brick'
  return f'{line} {TINY}'


def documented():
  """All that is run, in an order in which each finds what it needs."""
  found = [
    line
    for page in PAGES
    for line in lines(page)
    if COMMAND.search(line) and not any(word in line for word in ELSEWHERE)
  ]
  order = ('prepare.tfds', 'demo_validation.py', TRAINS.pattern, '')
  found.sort(key=lambda line: next(i for i, x in enumerate(order) if re.search(x, line)))
  return list(dict.fromkeys(adapted(line) for line in found))


@pytest.fixture
def site(tmp_path):
  """A folder with what the commands name, and miniature data."""
  for name in ('memkd_jax', 'configs', 'tools', 'benchmarks', 'examples'):
    (tmp_path / name).symlink_to(ROOT / name)
  for name, make in (LAYOUTS | INSPECTION_LAYOUTS).items():
    make(tmp_path / 'datasets' / name)
  rng = np.random.default_rng(0)
  kinds = {'train/good': 200, 'test/good': 3, 'test/worn': 3}
  for folder in ('DIR/NAME', 'parts/bracket'):
    for kind, number in kinds.items():
      for i in range(number):
        path = tmp_path / folder / kind / f'{i:03}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
  for name in ('FOLDER', 'new'):
    (tmp_path / name).symlink_to(tmp_path / 'DIR' / 'NAME' / 'test')
  return tmp_path


def test_every_command_has_a_small_form():
  assert len(documented()) > 30


@pytest.mark.slow
def test_every_command_runs(site):
  """Ten minutes."""
  pytest.importorskip('jax2onnx')
  path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
  environment = os.environ | {
    'PATH': path,
    'PYTHONPATH': str(ROOT),
    'HOME': str(site),
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }
  environment.pop('MEMKD_DATA', None)
  failed, commands = [], documented()
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
