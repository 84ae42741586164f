"""A run that is ended again and again, at moments of all kinds, ends as an undisturbed one."""

import itertools
import json
import random
import signal
import time
from functools import partial

import jax
import numpy as np
import pytest
from test_main import flags_of, run, start

from memkd_jax.files import model
from memkd_jax.runtime import interrupt
from memkd_jax.training import metrics_log
from memkd_jax.workdir import Workdir

CATEGORIES = ('bolt', 'nut', 'pin')
STEPS = 25
CHECKPOINT_STEPS = 3
_TIMEOUT = 1800  # seconds; the machine may have other work


def newest_saved(folder):
  """The step of the newest complete checkpoint or of the model, 0 where there is none."""
  if model.exists(folder):  # in place of the checkpoints
    return STEPS
  names = [path.name for path in folder.glob('checkpoints/*')]
  return max((int(name) for name in names if name.isdecimal()), default=0)


def later(paths, since):
  """Whether a path is of this process."""
  for path in paths:
    try:
      if path.stat().st_mtime > since:
        return True
    except FileNotFoundError:  # renamed in between
      continue
  return False


def in_time(generator):
  """After some seconds, wherever it is then."""
  deadline = time.monotonic() + generator.uniform(1, 15)
  return lambda folder, since: time.monotonic() > deadline


def in_training(generator):
  """After some steps more."""
  more, before = generator.randrange(1, 9), []

  def reached(folder, since):
    log = folder / 'metrics.jsonl'
    lines = log.read_bytes().count(b'\n') if log.exists() else 0
    if not later([log], since):
      return False
    before.append(lines)
    return lines >= min(before[0] + more, STEPS - 1)

  return reached


def in_saving(generator):
  """In the midst of a checkpoint, or when the model has just been written."""
  skipped = generator.randrange(3)
  seen = set()

  def reached(folder, since):
    tmp = [p for p in folder.glob('checkpoints/*.orbax-checkpoint-tmp*') if later([p], since)]
    seen.update(p.name for p in tmp)
    return len(seen) > skipped or newest_saved(folder) == STEPS

  return reached


def in_results(generator):
  """While the figures of a category are written."""
  names = ['.memkd_jax-*.png', 'figure.png', 'curves.png', 'memory.json', 'memory.png']
  name = generator.choice(names)
  return lambda folder, since: later(folder.glob(name), since)


def between_categories(_):
  """When a category has its result."""
  return lambda folder, since: (folder / 'result.json').exists()


def moments(generator):
  """Twenty (category, moment, signal), the signals in turns."""
  signals = itertools.cycle([signal.SIGTERM, signal.SIGKILL])
  for category in CATEGORIES:
    early = generator.sample([in_time, in_training, in_training, in_saving, in_saving], 4)
    late = [between_categories] if category != CATEGORIES[-1] else []
    for kind in (*early, in_results, in_results, *late):
      yield category, kind, next(signals)


@pytest.mark.slow  # 6 minutes alone on two cores
def test_twenty_ends_lose_nothing(tiny_config, tmp_path, make_category):
  for category in CATEGORIES:
    make_category(tmp_path / 'data', category)
  tiny_config.train.epochs = STEPS * 8 // 10
  tiny_config.train.checkpoint_steps = CHECKPOINT_STEPS
  code, _, err = run(*flags_of(tiny_config, tmp_path / 'whole'), timeout=_TIMEOUT)
  assert code == 0, err

  generator = random.Random(8)
  flags = flags_of(tiny_config, tmp_path / 'stopped')
  ended = 0
  for category, kind, number in moments(generator):
    folder = tmp_path / 'stopped' / category / 'seed_0'
    reached, since = partial(kind(generator), folder), time.time()
    process = start(*flags)
    while process.poll() is None and not reached(since):
      time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=_TIMEOUT)
    ended += process.returncode != 0
    logged = [line['step'] for line in metrics_log.read(folder / 'metrics.jsonl')]
    lost = max(logged, default=0) - newest_saved(folder)
    print(
      f'{category:5} {kind.__name__:18} {number.name}: exit code {process.returncode:3}, '
      f'{len(logged):2} steps logged, {lost} lost',
      flush=True,
    )
    allowed = {signal.SIGKILL: [-9], signal.SIGTERM: [interrupt.EXIT_CODE]}[number]
    if kind is in_time and number is signal.SIGTERM:
      allowed.append(-signal.SIGTERM)  # before the run began
    assert process.returncode in allowed, out + err
    if process.returncode == interrupt.EXIT_CODE and later([folder / 'metrics.jsonl'], since):
      assert lost == 0
    # Two where the next was due before the last had been written.
    assert lost <= 2 * CHECKPOINT_STEPS
  assert ended == 20

  code, out, err = run(*flags, timeout=_TIMEOUT)
  assert code == 0, err
  whole, stopped = (
    json.loads((tmp_path / name / 'results.json').read_text()) | {'environment': None}
    for name in ('whole', 'stopped')
  )
  assert stopped == whole
  for category in CATEGORIES:
    params, losses = [], []
    for name in ('whole', 'stopped'):
      workdir = Workdir(tmp_path / name)
      params.append(workdir.read_model(category, 0).params)
      log = metrics_log.read(workdir.category(category, 0) / 'metrics.jsonl')
      losses.append([(line['step'], line['loss']) for line in log])
    jax.tree.map(np.testing.assert_array_equal, *params)
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
  assert not list((tmp_path / 'stopped').rglob('checkpoints'))  # once there is a model
  assert not list((tmp_path / 'stopped').rglob('.memkd_jax-*'))
  assert not list((tmp_path / 'stopped').rglob('*.orbax-checkpoint-tmp*'))


@pytest.mark.slow  # a minute
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
  tiny_config, tmp_path, make_category, mount_disk
):
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 1
  disk = mount_disk(1400)  # two checkpoints fit, the third does not
  flags = flags_of(tiny_config, disk / 'run')
  code, _, err = run(*flags, timeout=_TIMEOUT)
  assert code == 1
  said = [line for line in err.replace('\r', '\n').splitlines() if 'img/s' not in line]
  assert [line for line in said if line.strip()] == [
    f'memkd_jax: {disk}/run/bolt/seed_0/checkpoints: No space left on device; make room there, '
    'and run the same command again.'
  ]
  assert newest_saved(disk / 'run' / 'bolt' / 'seed_0') >= 1
  mount_disk(100_000)
  code, _, err = run(*flags, timeout=_TIMEOUT)
  assert code == 0, err
  log = metrics_log.read(disk / 'run' / 'bolt' / 'seed_0' / 'metrics.jsonl')
  assert [line['step'] for line in log] == list(range(1, 6))
