"""Lint, format and types, as part of the one test command."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize('command', ['ruff check', 'ruff format --check', 'mypy'])
def test_style(command):
  result = subprocess.run(
    [sys.executable, '-m', *command.split()],
    cwd=Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
