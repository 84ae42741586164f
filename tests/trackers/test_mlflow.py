"""Runs on a real MLflow server of this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from memkd_jax import trackers
from memkd_jax.errors import UserError
from memkd_jax.trackers import Trackers
from memkd_jax.trackers.tracker import Place

pytest.importorskip('mlflow')


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """The address of a server with a data base of its own."""
  pytest.importorskip('sqlalchemy', reason='mlflow-skinny has no server')
  home = tmp_path_factory.mktemp('mlflow')
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    port = listening.getsockname()[1]
  command = [sys.executable, '-m', 'mlflow', 'server', '--host=127.0.0.1', f'--port={port}']
  command += ['--workers=1', f'--backend-store-uri=sqlite:///{home}/runs.db']
  command += [f'--artifacts-destination={home}/artifacts']
  with (home / 'log').open('w') as log:
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
  address = f'http://127.0.0.1:{port}'
  try:
    for _ in range(180):
      time.sleep(1)
      assert process.poll() is None, (home / 'log').read_text()
      try:
        if urllib.request.urlopen(f'{address}/health', timeout=5).status == 200:
          break
      except OSError:
        continue
    else:
      pytest.fail((home / 'log').read_text())
    yield address
  finally:
    os.killpg(process.pid, 15)
    process.wait(60)


@pytest.mark.slow
def test_a_run_and_its_evaluation_are_one(server, monkeypatch, tmp_path):
  from mlflow import MlflowClient

  monkeypatch.setenv('MLFLOW_TRACKING_URI', server)
  trackers.check(['mlflow'])
  picture = tmp_path / 'figure.png'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
  folder = tmp_path / 'parts' / 'bolt'
  folder.mkdir(parents=True)
  (tmp_path / 'parts' / 'config.json').write_text('{}')
  fields = {f'section.field_{i}': i for i in range(150)}
  with Trackers(['mlflow'], Place.of(folder, 0, fields)) as told:
    told.write(1, {'loss': 0.5})
    told.write(2, {'loss': 0.25, 'P-PRO(0.3)': 0.5})
  changed = fields | {'section.field_0': 'other'}
  with Trackers(['mlflow'], Place.of(folder, 2, changed)) as told:
    told.finish({'I-AUC': 0.75}, {'figure': picture})
  client = MlflowClient()
  experiment = client.get_experiment_by_name('parts')
  (run,) = client.search_runs([experiment.experiment_id])
  assert (run.info.run_name, run.info.status) == ('bolt', 'FINISHED')
  assert run.data.params == {name: str(value) for name, value in fields.items()}
  assert run.data.tags['now.section.field_0'] == 'other'
  assert run.data.metrics == {'loss': 0.25, 'P-PRO_0.3_': 0.5, 'I-AUC': 0.75}
  losses = client.get_metric_history(run.info.run_id, 'loss')
  assert [(metric.step, metric.value) for metric in losses] == [(1, 0.5), (2, 0.25)]
  (kept,) = client.list_artifacts(run.info.run_id, 'pictures')
  assert kept.path == 'pictures/figure.png'


def test_a_server_that_is_away_is_told_at_the_start(monkeypatch):
  monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '0')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:9')
  with pytest.raises(UserError, match='MLflow cannot be reached'):
    trackers.check(['mlflow'])
