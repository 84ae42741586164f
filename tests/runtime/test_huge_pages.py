"""The process starts again once, with the setting, and as the same command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memkd_jax.runtime.huge_pages import environment_with_huge_pages

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='a setting of Linux')
PROGRAM = """
import os, sys
from memkd_jax.runtime.huge_pages import restart_with_huge_pages
print(os.getpid(), flush=True)
restart_with_huge_pages()
print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])
"""


def lines(**variables):
  environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  return subprocess.run(
    [sys.executable, '-c', PROGRAM, 'a b', '--c=*'],
    env=environment | {'PYTHONPATH': str(ROOT)} | variables,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()


@LINUX
def test_restarts_once_as_the_same_command_and_process():
  first, second, last = lines()
  assert first == second
  assert last == 'glibc.malloc.hugetlb=1 a b --c=*'


@LINUX
def test_what_the_user_set_stays():
  assert lines(GLIBC_TUNABLES='glibc.malloc.hugetlb=0')[1:] == [
    'glibc.malloc.hugetlb=0 a b --c=*'
  ]


def test_elsewhere_nothing_happens(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'darwin')
  assert environment_with_huge_pages({}) is None
