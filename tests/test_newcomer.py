"""The README's commands as they stand, in a copy of the repository, on a bare Python.

Takes 18 minutes on one core, and a package index. The folders are called as the README
calls them: DIR/NAME, FOLDER, OUT.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from documented import README, ROOT, lines
from PIL import Image

from memkd_jax import config as base

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('newcomer'), pytest.mark.newest]

# The README's own command takes the paper's teacher, which has to be downloaded first.
SMALL = (
  '--config.model.backbone=resnet18 --config.model.teacher_weights=demo '
  '--config.train.epochs=40 --config.data.image_size=128'
)
DEFECTIVE = (slice(50, 70), slice(60, 90))


def shell(folder, line, extra=''):
  """Runs a line in an activated environment without anything of this one."""
  kept = {name: os.environ[name] for name in os.environ if name.startswith(('PIP_', 'LANG'))}
  path = f'{Path(sys.base_prefix) / "bin"}:/usr/local/bin:/usr/bin:/bin'
  activate = '. .venv/bin/activate && ' if (folder / '.venv').is_dir() else ''
  result = subprocess.run(
    ['bash', '-c', f'{activate}{line} {extra}'],
    cwd=folder,
    env=kept | {'PATH': path, 'HOME': str(folder / 'home')},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, f'{line}\n{result.stdout[-2000:]}{result.stderr[-2000:]}'
  return result.stdout


def documented(part):
  """The one line of the README that holds `part`."""
  (line,) = [line for line in lines(README) if part in line]
  return line


def paint(path, rng, defective=False):
  """A striped part of 160 x 120 pixels."""
  rows, columns = np.mgrid[:120, :160]
  grey = 120 + 60 * np.sin((columns + 3 * np.sin(rows / 9)) / 4) + rng.normal(0, 6, (120, 160))
  if defective:
    spot = grey[DEFECTIVE]
    grey[DEFECTIVE] = rng.permutation(spot.ravel()).reshape(spot.shape)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert('RGB').save(path)


def heat_map(path):
  """Where the heat map of an image of FOLDER lies, below that of all heat maps."""
  return Path(path).relative_to('FOLDER').with_suffix('.png')


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
  """A copy of what git tracks."""
  if not (ROOT / '.git').exists():
    pytest.skip('needs the git repository')
  folder = tmp_path_factory.mktemp('clone')
  reach = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', folder, 'absl-py']
  if subprocess.run(reach, capture_output=True).returncode:
    pytest.skip('needs a package index')
  listing = ['git', 'ls-files', '-z']
  names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  for name in filter(None, names.split('\0')):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
  return folder


@pytest.fixture(scope='module')
def demo(clone):
  shell(clone, documented('pip install -e .'))
  shell(clone, documented('--config=demo'))
  return clone


@pytest.fixture(scope='module')
def mine(demo):
  """Trains on images in DIR/NAME."""
  rng = np.random.default_rng(0)
  for i in range(40):
    paint(demo / 'DIR' / 'NAME' / 'train' / 'good' / f'{i:02}.png', rng)
  for i in range(6):
    paint(demo / 'DIR' / 'NAME' / 'test' / 'good' / f'{i}.png', rng)
    paint(demo / 'DIR' / 'NAME' / 'test' / 'worn' / f'{i}.png', rng, defective=True)
    paint(demo / 'FOLDER' / 'deep' / f'good{i}.jpg', rng)
    paint(demo / 'FOLDER' / f'worn{i}.bmp', rng, defective=True)
  # 9 images of 40 are held out, enough for 10%.
  shell(demo, documented('--config=best'), SMALL)
  return demo


@pytest.fixture(scope='module')
def predicted(mine):
  """The rows of scores.csv, by path."""
  shell(mine, documented('memkd predict'))
  with (mine / 'OUT' / 'scores.csv').open() as file:
    return {row['path']: row for row in csv.DictReader(file)}


def test_good_images_end_in_a_detector(mine):
  shell(mine, documented('--good=FOLDER'), SMALL.replace('epochs=40', 'epochs=4'))
  assert (mine / 'runs' / 'FOLDER' / 'report.html').stat().st_size > 10_000
  shell(mine, 'memkd predict --workdir=runs/FOLDER --images=FOLDER --out=SECOND')
  with (mine / 'SECOND' / 'scores.csv').open() as file:
    assert {row['decision'] for row in csv.DictReader(file)} <= {'normal', 'anomalous'}


def test_the_demo_ends_in_a_results_table(demo):
  results = json.loads((demo / 'runs' / 'demo' / 'results.json').read_text())
  assert sorted(results['categories']) == ['brick', 'grass', 'gravel']
  assert results['mean']['I-AUC'] > 0.9
  assert results['mean']['P-AUC'] > 0.94
  assert '| mean ' in (demo / 'runs' / 'demo' / 'results.md').read_text()
  assert (demo / 'runs' / 'demo' / 'report.html').stat().st_size > 10_000


def test_ones_own_images_give_a_detector(mine):
  results = json.loads((mine / 'runs' / 'mine' / 'results.json').read_text())
  assert results['categories']['NAME']['I-AUC'] > 0.9
  assert 'threshold' in (mine / 'runs' / 'mine' / 'report.html').read_text().lower()


def test_new_images_get_decisions_and_heat_maps(mine, predicted):
  assert len(predicted) == 12
  for path, row in predicted.items():
    assert row['error'] == ''
    assert row['decision'] in ('normal', 'anomalous')
    with Image.open(mine / 'OUT' / 'heatmaps' / heat_map(path)) as image:
      assert image.height >= 120
    if 'worn' in path:
      assert row['decision'] == 'anomalous'
      assert 40 <= int(row['peak_row']) < 80
      assert 50 <= int(row['peak_col']) < 100


def test_three_lines_of_python(mine, predicted):
  text = README.read_text()
  block = text[text.index('```python\n') + len('```python\n') :]
  # The README's own line trains once more, with a teacher that has to be downloaded.
  for written, here in (
    ("memkd_jax.fit('FOLDER', workdir='runs/python')", "memkd_jax.load('runs/mine')"),
    ("'part.png'", 'images'),
  ):
    assert block.count(written) == 1
    block = block.replace(written, here)
  script = mine / 'three_lines.py'
  script.write_text(
    'import glob, memkd_jax, numpy as np\n'
    'from PIL import Image\n'
    'paths = sorted(glob.glob("FOLDER/*.bmp"))\n'
    'images = np.stack([np.asarray(Image.open(path)) for path in paths])\n'
    f'{block[: block.index("```")]}\n'
    'for path, score in zip(paths, result.scores): print(f"{path} {score:.9g}")\n'
  )
  printed = shell(mine, 'python three_lines.py').splitlines()
  assert '(6, 128, 128)' in printed[-7]  # the README's last line
  for line in printed[-6:]:
    path, score = line.split()
    assert float(score) == pytest.approx(float(predicted[path]['score']), rel=1e-5)


def test_an_exported_file_runs_elsewhere(mine, predicted, tmp_path):
  shell(mine, documented('--out=NAME.onnx').replace('.onnx', '.memkd'))
  shutil.copy(mine / 'NAME.memkd', tmp_path)
  shutil.copy(ROOT / 'examples' / 'run_exported.py', tmp_path)
  shutil.copytree(mine / 'FOLDER', tmp_path / 'FOLDER')
  shell(tmp_path, 'python3 -m venv .venv')
  page = (ROOT / 'docs' / 'export.md').read_text().replace('\n', ' ')
  start = page.index('`pip install jax flatbuffers') + 1
  shell(tmp_path, page[start : page.index('`', start)])
  with zipfile.ZipFile(tmp_path / 'NAME.memkd') as file:
    assert json.loads(file.read('metadata.json'))['threshold'] is not None
  for line in shell(tmp_path, 'python run_exported.py NAME.memkd FOLDER/*.bmp').splitlines():
    path, score, decision = line.split('\t')
    assert float(score) == pytest.approx(float(predicted[path]['score']), rel=1e-5)
    assert decision.lower() == predicted[path]['decision']


def test_an_onnx_model_and_a_page(mine, predicted):
  """What they need is installed last, since the converter keeps other packages back."""
  shell(mine, documented('[onnx,serve]'))
  shell(mine, documented('--out=NAME.onnx'))
  shell(mine, 'memkd predict --model=NAME.onnx --images=FOLDER --out=FROM_ONNX')
  with (mine / 'FROM_ONNX' / 'scores.csv').open() as file:
    for row in csv.DictReader(file):
      expected = float(predicted[row['path']]['score'])
      assert float(row['score']) == pytest.approx(expected, rel=1e-3)
  serve = f'{documented("memkd serve")} --port=0'
  # Its first line that names an address is the one that it listens at. Behind `:` it is a job
  # of its own, and not part of one that activates the environment.
  script = f""":
    {serve} > serve.log 2>&1 & server=$!
    for i in $(seq 300); do
      address=$(grep -o 'http://127.0.0.1:[0-9]*' serve.log | head -1)
      [ -n "$address" ] && curl -sf $address/healthz > /dev/null && break; sleep 1
    done
    curl -sf -F images=@FOLDER/worn0.bmp $address/api/score; kill $server; wait $server || true
  """
  (image,) = json.loads(shell(mine, script))['images']
  assert image['score'] == pytest.approx(
    float(predicted['FOLDER/worn0.bmp']['score']), rel=1e-5
  )


def test_the_copy_has_the_teacher(clone):
  assert (clone / base.DEMO_TEACHER_FILE.relative_to(ROOT)).is_file()
