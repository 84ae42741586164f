"""The cells of examples/quickstart.ipynb, one after the other."""

import json

import matplotlib.pyplot as plt
import pytest
from documented import ROOT

pytestmark = pytest.mark.newest

NOTEBOOK = ROOT / 'examples' / 'quickstart.ipynb'


def cells(kind):
  notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
  return [cell for cell in notebook['cells'] if cell['cell_type'] == kind]


def execute(replaced, tmp_path, monkeypatch):
  """Runs all code; returns what it has defined."""
  monkeypatch.chdir(tmp_path)
  plt.switch_backend('Agg')
  names = {}
  for cell in cells('code'):
    code = ''.join(cell['source'])
    for old, new in replaced.items():
      code = code.replace(old, new)
    exec(compile(code, str(NOTEBOOK), 'exec'), names)
  plt.close('all')
  return names


def test_the_cells_run_in_small(tmp_path, monkeypatch, capsys):
  replaced = {'image_size=128': 'image_size=64', 'epochs=30': "method='knn'"}
  names = execute(replaced, tmp_path, monkeypatch)
  assert names['detector'].category == 'gravel'
  assert len(names['result'].scores) == 4
  assert 'caught ' in capsys.readouterr().out


@pytest.mark.slow
def test_the_cells_run_as_they_are(tmp_path, monkeypatch, capsys):
  execute({}, tmp_path, monkeypatch)
  shown = capsys.readouterr().out.splitlines()
  caught, alarms = (int(shown[-1].split()[i]) for i in (1, 5))
  assert caught > 2 * alarms


def test_the_notebook_holds_its_outputs():
  outputs = [output for cell in cells('code') for output in cell['outputs']]
  assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
  assert not any(output['output_type'] == 'error' for output in outputs)
  text = json.dumps(outputs)
  assert 'caught 20 of 24 defects' in text
  assert not any(place in text for place in ('/tmp', '/home', '/root'))
