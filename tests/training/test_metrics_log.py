import errno
import json

import pytest

from memkd_jax.training.metrics_log import MetricsLog, read


def test_a_resumed_log_keeps_its_steps_increasing(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with MetricsLog(tmp_path, 0) as log:
    for step in (1, 2, 3, 4):
      log.write(step, {'loss': 0.5})
  with path.open('a') as file:
    file.write('{"step": 5, "lo')  # cut off by a crash
  assert [line['step'] for line in read(path)] == [1, 2, 3, 4]
  with MetricsLog(tmp_path, 2) as log:
    log.write(3, {'loss': 0.25})
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line['step'] for line in lines] == [1, 2, 3]
  assert lines[-1]['loss'] == 0.25
  path.write_bytes(b'{"step": 1}\n\xff\x00\n[]\n{"step": "2"}\n{"step": 2}\n')
  assert read(path) == [{'step': 1}, {'step': 2}]
  assert read(tmp_path / 'gone') == []


def test_a_full_disk_is_named_and_a_torn_line_repaired(tmp_path, monkeypatch):
  class Full:
    """Takes half of what it is given, then nothing."""

    def write(self, line):
      if len(line) < 20:
        raise OSError(errno.ENOSPC, 'No space left on device')
      with path.open('ab') as file:
        return file.write(line[:-10])

    def close(self):
      pass

  path = tmp_path / 'metrics.jsonl'
  with MetricsLog(tmp_path, 0) as log:
    log.write(1, {'loss': 0.5})
    monkeypatch.setattr(log._lines, '_file', Full())
    with pytest.raises(OSError) as error:
      log.write(2, {'loss': 0.25})
  assert error.value.filename == str(path)
  assert len(path.read_bytes().splitlines()) == 2
  with MetricsLog(tmp_path, 2) as log:
    log.write(3, {'loss': 0.25})
  assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 3]
