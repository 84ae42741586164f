"""The wheel: it holds the whole package and nothing else, and an index would show it."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from documented import ROOT

import memkd_jax

_HINT = "pip install -e '.[docs]'"
pytest.importorskip('setuptools', '77', reason=f'needs setuptools 77 or newer: {_HINT}')
pytest.importorskip('twine', reason=f'needs twine: {_HINT}')

PACKAGE = ROOT / 'memkd_jax'
BUILT_FROM = ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Built of a copy, since setuptools takes what an earlier build has left beside setup.cfg."""
  folder = tmp_path_factory.mktemp('package')
  source, out = folder / 'source', folder / 'dist'
  shutil.copytree(PACKAGE, source / 'memkd_jax', ignore=shutil.ignore_patterns('__pycache__'))
  shutil.copytree(ROOT / 'tests' / 'metrics', source / 'tests' / 'metrics')  # to be left out
  for name in BUILT_FROM:
    shutil.copy(ROOT / name, source)
  command = [sys.executable, '-m', 'pip', 'wheel', '--no-index', '--no-deps', '-q']
  result = subprocess.run(
    [*command, '--no-build-isolation', '--disable-pip-version-check', '-w', out, source],
    cwd=folder,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  (found,) = out.iterdir()
  return found


def test_an_index_would_show_it(wheel):
  command = [sys.executable, '-m', 'twine', 'check', '--strict', wheel]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
  assert 'PASSED' in result.stdout


def test_it_holds_every_file_of_the_package_and_no_test(wheel):
  held = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
  files = [path for path in PACKAGE.rglob('*') if path.is_file()]
  assert held == {
    path.relative_to(ROOT).as_posix() for path in files if path.parent.name != '__pycache__'
  }
  for part in (
    'py.typed',
    'configs/ablations/memories.py',
    'data/benchmarks/counts.csv',
    'deploy/serving/static/page.html',
    'report/paper/table4_backbones.csv',
    'report/report.css',
    'report/report.html.j2',
    'teachers/demo_teacher.safetensors',
  ):
    assert f'memkd_jax/{part}' in held


def test_its_metadata_are_complete(wheel):
  archive = zipfile.ZipFile(wheel)
  info = f'memkd_jax-{memkd_jax.__version__}.dist-info'
  metadata = Parser().parsestr(archive.read(f'{info}/METADATA').decode())
  assert metadata['Version'] == memkd_jax.__version__
  assert metadata['Requires-Python'] == '>=3.11'
  assert metadata['License-Expression'] == 'Apache-2.0'
  assert metadata['Author'] and metadata['Summary'] and metadata['Keywords']
  assert len(metadata.get_all('Classifier')) > 5
  assert {'dev', 'docs', 'serve'} <= set(metadata.get_all('Provides-Extra'))
  assert metadata.get_payload() == (ROOT / 'README.md').read_text()
  assert 'memkd = memkd_jax.__main__:main' in archive.read(f'{info}/entry_points.txt').decode()
  assert f'{info}/licenses/LICENSE' in archive.namelist()
