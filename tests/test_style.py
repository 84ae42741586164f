"""Lint, format, types and the contract between rooms, as part of the one test command."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'memkd_jax'
COMMANDS = {
  'ruff check': [sys.executable, '-m', 'ruff', 'check'],
  'ruff format': [sys.executable, '-m', 'ruff', 'format', '--check'],
  'spelling': [str(Path(sys.executable).with_name('codespell'))],
  'mypy': [sys.executable, '-m', 'mypy'],
  'layers': [str(Path(sys.executable).with_name('lint-imports')), '--no-cache'],
}


@pytest.mark.parametrize('name', COMMANDS)
def test_style(name):
  result = subprocess.run(COMMANDS[name], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr


def trees(folder):
  return {p.relative_to(PACKAGE): ast.parse(p.read_text()) for p in folder.rglob('*.py')}


def test_devices_alone_knows_pmap():
  users = {
    str(path)
    for path, tree in trees(PACKAGE).items()
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node.attr == 'pmap'
  }
  assert users == {'runtime/devices.py'}


def test_metrics_import_numpy_and_scipy_alone():
  imported = set()
  for tree in trees(PACKAGE / 'metrics').values():
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        imported |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        imported.add(node.module)
  packages = {name.split('.')[0] for name in imported} - sys.stdlib_module_names
  assert packages == {'memkd_jax', 'numpy', 'scipy'}
  own = {name for name in imported if name.startswith('memkd_jax')}
  assert all(name.startswith('memkd_jax.metrics') for name in own)


def test_the_root_holds_few_files():
  files = [p for p in PACKAGE.iterdir() if p.is_file()]
  assert len(files) <= 16, sorted(p.name for p in files)
