"""Thousands of damaged and hostile files: each works, or ends in one clear sentence.

Cases are numbered, and their numbers are their seeds; `bad_input.worker` says how to
repeat one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Of each target, how many cases the default suite runs, and how many the slow test.
CASES = {
  'images': (80, 720),
  'masks': (25, 220),
  'maps': (15, 100),
  'pictures': (10, 40),
  'folders': (15, 85),
  'visa': (25, 175),
  'eyecandies': (20, 130),
  'real_iad': (20, 130),
  'dagm': (20, 130),
  'config_json': (20, 180),
  'model_json': (15, 105),
  'calibration': (15, 105),
  'model_arrays': (15, 105),
  'results': (20, 180),
  'log': (10, 60),
  'overrides': (30, 270),
  'teachers': (20, 180),
  'state_dicts': (0, 200),
  'checkpoints': (5, 95),
}


def run(*requests):
  """The outcomes of `TARGET:BEGIN:END` requests; fails where one is what it must not be."""
  process = subprocess.run(
    [sys.executable, '-W', 'ignore', '-m', 'bad_input.worker', *requests],
    env=os.environ | {'PYTHONPATH': os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr[-2000:]
  results = [json.loads(line) for line in process.stdout.splitlines()]
  failed = [
    f'{r["target"]} {r["case"]}: {r["detail"]}' for r in results if r['outcome'] == 'failed'
  ]
  assert not failed, '\n'.join(failed)
  expected = sum(int(end) - int(begin) for _, begin, end in (r.split(':') for r in requests))
  assert len(results) == expected
  return results


def test_a_slice_of_all_cases():
  results = run(*(f'{name}:0:{quick}' for name, (quick, _) in CASES.items() if quick))
  for name, (quick, _) in CASES.items():
    if quick and name != 'pictures':  # which are shown as missing
      outcomes = {r['outcome'] for r in results if r['target'] == name}
      assert 'refused' in outcomes, name


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_all_cases(name):
  if name == 'state_dicts':
    pytest.importorskip('torch', reason='state dicts need the extra [convert]')
  quick, slow = CASES[name]
  run(f'{name}:{quick}:{quick + slow}')


def test_there_are_thousands():
  assert sum(quick + slow for quick, slow in CASES.values()) >= 2000
  assert sum(quick for quick, _ in CASES.values()) >= 200
