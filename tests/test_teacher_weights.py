"""A run whose teacher nobody named, and what is said when that file is gone later."""

import json

import numpy as np
import pytest
from safetensors.numpy import save
from weights_server import serving

import memkd_jax
from memkd_jax import calibrate, export, predict, serve
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.teachers import weights


@pytest.fixture
def run(tiny_config, tmp_path, make_category, make_state_dict, rng, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  make_category(tmp_path / 'data')
  tiny_config.model.teacher_weights = 'auto'
  tiny_config.train.epochs = 1
  with serving(monkeypatch, 'tiny_basic', save(make_state_dict('tiny_basic', rng))) as server:
    run_config(tiny_config, tmp_path / 'run')
    yield server


def test_the_teacher_of_a_run(run, tmp_path, tiny_config, capsys):
  """One run for all of it, since it takes the time."""
  teacher = tmp_path / 'cache' / 'memkd_jax' / 'teachers' / 'tiny_basic.safetensors'
  digest = weights.sha256(teacher)
  recorded = json.loads((tmp_path / 'run' / 'config.json').read_text())['model']
  assert (recorded['teacher_weights'], recorded['teacher_sha256']) == (str(teacher), digest)
  facts = json.loads((tmp_path / 'run' / 'bolt' / 'seed_0' / 'model.json').read_text())
  assert facts['config']['model']['teacher_weights'] == str(teacher)
  assert facts['teacher_sha256'] == digest
  assert len(run.requests) == 1

  capsys.readouterr()
  run_config(tiny_config, tmp_path / 'run')
  assert 'bolt: finished already' in capsys.readouterr().out
  assert memkd_jax.load(tmp_path / 'run').category == 'bolt'
  assert len(run.requests) == 1

  moved = teacher.rename(tmp_path / 'moved teacher.safetensors')
  image = str(next((tmp_path / 'data' / 'bolt' / 'train' / 'good').iterdir()))
  model = f'--workdir={tmp_path}/run'
  commands = {
    predict: [model, f'--images={image}', f'--out={tmp_path}/out'],
    export: [model, f'--out={tmp_path}/bolt.memkd'],
    serve: [model, '--port=0'],
    calibrate: [model, f'--good={tmp_path}/data/bolt/train/good'],
  }
  for command, arguments in commands.items():
    assert command.main(arguments) == 1, command
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f'There is no teacher at {teacher}; say where that file lies now with' in sentence
    assert '--teacher-weights=FILE' in sentence and digest[:8] in sentence
  given = f'--teacher-weights={moved}'
  assert predict.main([*commands[predict], given]) == 0
  assert export.main([*commands[export], given]) == 0

  teacher.write_bytes(moved.read_bytes()[:-1])  # there, but damaged
  with pytest.raises(UserError, match=r'is not the teacher that bolt .*--teacher-weights=FILE'):
    memkd_jax.load(tmp_path / 'run')
  images = np.zeros((1, 32, 32, 3), np.uint8)
  assert memkd_jax.load(tmp_path / 'run', teacher_weights=moved)(images).scores.shape == (1,)
