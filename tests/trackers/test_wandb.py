"""Runs of Weights & Biases in offline mode, read back from their files."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from memkd_jax import trackers
from memkd_jax.errors import UserError
from memkd_jax.trackers import Trackers
from memkd_jax.trackers.tracker import Place

pytest.importorskip('wandb')


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for folder in ('WANDB_CONFIG_DIR', 'WANDB_CACHE_DIR', 'WANDB_DATA_DIR'):
    monkeypatch.setenv(folder, str(tmp_path / 'home'))


def records_of(path):
  """The records of a file: of a log as LevelDB has it, in blocks of 32 kB."""
  from wandb.proto.wandb_internal_pb2 import Record

  content, at, record = path.read_bytes(), 7, b''
  while at < len(content):
    left = 32768 - at % 32768
    if left < 7:  # too few bytes for another header
      at += left
      continue
    length, kind = int.from_bytes(content[at + 4 : at + 6], 'little'), content[at + 6]
    record += content[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or its last part
      yield Record.FromString(record)
      record = b''


def test_a_run_and_its_evaluation_are_one(tmp_path):
  picture = tmp_path / 'figure.png'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
  folder = tmp_path / 'parts' / 'bolt'
  folder.mkdir(parents=True)
  (tmp_path / 'parts' / 'config.json').write_text('{}')
  place = Place.of(folder, 0, {'train.learning_rate': 0.5})
  with Trackers(['wandb'], place) as told:
    told.write(1, {'loss': 0.5})
    told.write(2, {'loss': 0.25})
  with Trackers(['wandb'], dataclasses.replace(place, step=2)) as told:
    told.finish({'I-AUC': 0.75}, {'figure': picture})
  files = sorted((folder / 'wandb').glob('offline-run-*/*.wandb'))
  assert len(files) == 2
  records = [record for file in files for record in records_of(file)]
  runs = [record.run for record in records if record.HasField('run')]
  assert {run.run_id for run in runs} == {place.read_id('wandb')}
  assert {(run.project, run.display_name) for run in runs} == {('parts', 'bolt')}
  config = {u.key: u.value_json for run in runs for u in run.config.update}
  assert json.loads(config['train.learning_rate']) == 0.5
  logged = [
    {('/'.join(i.nested_key) or i.key): json.loads(i.value_json) for i in record.history.item}
    for record in records
    if record.HasField('history')
  ]
  assert [(line['_step'], line['loss']) for line in logged if 'loss' in line] == [
    (1, 0.5),
    (2, 0.25),
  ]
  pictures = [line['_step'] for line in logged if 'figure' in line or 'figure/_type' in line]
  assert pictures == [3], logged
  summary = {
    i.key: i.value_json for r in records if r.HasField('summary') for i in r.summary.update
  }
  assert json.loads(summary['I-AUC']) == 0.75
  assert list((folder / 'wandb').rglob('figure_*.png'))


def test_who_is_not_logged_in_is_told_the_remedy(monkeypatch, tmp_path):
  monkeypatch.setenv('WANDB_MODE', 'online')
  monkeypatch.setenv('HOME', str(tmp_path))  # where a key would be
  monkeypatch.delenv('WANDB_API_KEY', raising=False)
  with pytest.raises(UserError, match='WANDB_MODE=offline'):
    trackers.check(['wandb'])
