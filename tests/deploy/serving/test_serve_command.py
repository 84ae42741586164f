"""The command: its sentences, its codes, and a life from start to SIGTERM."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from memkd_jax import methods, serve
from memkd_jax.workdir import TrainedModel, Workdir

ROOT = Path(__file__).parents[3]


@pytest.fixture
def failure(capsys):
  """What it says in giving up."""

  def fail(*flags):
    assert serve.main(flags) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith('serve: ')
    return sentence

  return fail


@pytest.mark.parametrize(
  'flags',
  [[], ['--workdir=x', '--port=70000'], ['--workdir=x', '--max-images=0'], ['--nothing']],
)
def test_wrong_usage_ends_with_2(flags, capsys):
  with pytest.raises(SystemExit) as caught:
    serve.main(flags)
  assert caught.value.code == 2
  assert 'Traceback' not in capsys.readouterr().err


def test_what_cannot_be_served(tmp_path, tiny_config, failure):
  workdir = tmp_path / 'run'
  folder = Workdir(workdir)
  config = methods.resolve(tiny_config)
  folder.claim(config, ())
  assert 'holds no run' in failure(f'--workdir={tmp_path / "none"}')
  assert 'holds no trained model yet' in failure(f'--workdir={workdir}')
  nothing = {'x': np.zeros(1, np.float32)}
  folder.write_model(TrainedModel('bolt', 0, config, 'random', nothing, 4, '', {}, None))
  assert 'screw is not among them' in failure(f'--workdir={workdir}', '--category=screw')
  assert 'no model with seed 9' in failure(f'--workdir={workdir}', '--seed=9')
  assert 'between 0 and 1' in failure(f'--workdir={workdir}', '--false-alarm-rate=2')


def test_a_port_that_is_taken():
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(serve.UserError, match=f'--port={port}: Address already in use'):
      serve._listen('127.0.0.1', port)


@pytest.mark.parametrize(('host', 'loopback'), [('localhost', True), ('0.0.0.0', False)])
def test_what_is_loopback(host, loopback):
  listener, is_loopback = serve._listen(host, 0)
  with listener:
    assert is_loopback == loopback


@pytest.mark.slow  # half a minute: a process of its own compiles
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(workdir, number):
  process = subprocess.Popen(
    [sys.executable, '-m', 'memkd_jax.serve', f'--workdir={workdir}', '--port=0'],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    for line in process.stdout:
      if address := re.search(r'http://127\.0\.0\.1:\d+', line):
        break
    assert httpx.get(f'{address[0]}/healthz').json() == {'status': 'ready'}
    answer = httpx.get(f'{address[0]}/healthz', headers={'host': 'evil.example'})
    assert answer.status_code == 400
  finally:
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
  assert process.returncode == 0, err
  assert 'Traceback' not in err
