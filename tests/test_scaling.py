"""The same run whatever the number of devices and processes."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memkd_jax.runtime import interrupt
from memkd_jax.workdir import Workdir

ROOT = Path(__file__).parents[1]
FLAGS = '--xla_backend_optimization_level=0 --xla_force_host_platform_device_count='


def test_one_file_alone_knows_pmap():
  """So that another way to share out a batch changes no other."""
  package = ROOT / 'memkd_jax'
  knowing = {
    path.relative_to(package).as_posix()
    for path in package.rglob('*.py')
    for node in ast.walk(ast.parse(path.read_text()))
    if getattr(node, 'attr', getattr(node, 'id', getattr(node, 'name', None))) == 'pmap'
  }
  assert knowing == {'runtime/devices.py'}


def free_port():
  with closing(socket.socket()) as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def start(arguments, devices, x64=True):
  """A Python process with some virtual devices of its own."""
  environment = {
    'XLA_FLAGS': f'{FLAGS}{devices}',
    'JAX_ENABLE_X64': str(int(x64)),
    'PYTHONPATH': str(ROOT),
  }
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process, code=0):
  output, _ = process.communicate(timeout=900)
  assert process.returncode == code, output
  return output


def steps_of(folder, runs, dtype='float64', steps=20):
  """Runs scaling_steps.py.

  Args:
    folder: for its results.
    runs: (numbers of devices, number of processes), one after the other.
    dtype: of the model.
    steps: to take.

  Returns:
    For each number of devices and of processes what the last process saw.
  """
  found = {}
  for numbers, count in runs:
    port = free_port()
    started = []
    for i in range(count):
      out = folder / f'{max(numbers)}_{count}_{i}.npz'
      arguments = [ROOT / 'tests' / 'scaling_steps.py', out, dtype, steps]
      arguments.append(','.join(map(str, numbers)))
      if count > 1:
        arguments += [port, count, i]
      started.append(start(arguments, max(numbers) // count, x64=dtype == 'float64'))
    for process in started:
      finish(process)
    with np.load(out) as arrays:
      for number in numbers:
        names = ('losses', 'gradients', 'statistics')
        found[number, count] = {name: arrays[f'{name}_{number}'] for name in names}
  return found


def test_twenty_losses_agree_in_float64_on_four_devices(tmp_path):
  assert_same_losses(steps_of(tmp_path, [((1, 4), 1)]))


@pytest.mark.slow
def test_twenty_losses_agree_on_up_to_eight_devices_and_in_two_processes(tmp_path):
  """About three minutes."""
  runs = [((1, 2, 4, 8), 1), *(((n,), 2) for n in (2, 4, 8))]
  assert_same_losses(steps_of(tmp_path, runs))


def assert_same_losses(runs):
  losses = [run['losses'] for run in runs.values()]
  assert len(losses) > 1
  assert losses[0].shape == (20,)
  assert losses[0][-1] < 0.9 * losses[0][0]
  for other in losses[1:]:
    np.testing.assert_allclose(other, losses[0], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_one_step_agrees_in_float32_on_devices_and_in_processes(tmp_path):
  """About two minutes."""
  runs = steps_of(tmp_path, [((1, 2, 8), 1), ((2,), 2), ((8,), 2)], 'float32', steps=1)
  one = runs.pop((1, 1))
  assert one['gradients'].size > 1000
  assert np.abs(one['gradients']).max() > 1e-3
  for run in runs.values():
    for name, values in run.items():
      np.testing.assert_allclose(values, one[name], atol=1e-5, rtol=1e-5, err_msg=name)


def command(config, workdir, *others):
  """A run in float64, where the number of devices changes nothing that one can see."""
  fields = [
    f'--config.{section}.{name}={value}'
    for section in ('data', 'model', 'train', 'eval')
    for name, value in config[section].items()
    if name != 'dataset'
  ]
  module = ['-m', 'memkd_jax.main', '--config=configs/folder.py', f'--workdir={workdir}']
  return [*module, *fields, '--config.model.dtype=float64', *others]


def start_two(config, workdirs, port, *others, own=((), ())):
  """Two processes with one device each, and with flags of their own."""
  join = [f'--coordinator=127.0.0.1:{port}', '--process-count=2']
  return [
    start(command(config, workdirs[i], *others, *join, f'--process-id={i}', *own[i]), 1)
    for i in (0, 1)
  ]


def figures_of(workdir):
  results = json.loads((workdir / 'results.json').read_text())
  del results['environment']
  del results['costs']  # they have times
  return results


def assert_same_run(a, b, seeds=(0,)):
  """Figures and losses of two folders."""
  found, expected = figures_of(a), figures_of(b)
  assert found['per_seed'].keys() == expected['per_seed'].keys() == set(map(str, seeds))
  for seed in seeds:
    categories = expected['per_seed'][str(seed)]
    assert found['per_seed'][str(seed)].keys() == categories.keys()
    for category, figures in categories.items():
      assert found['per_seed'][str(seed)][category] == pytest.approx(figures, abs=1e-6)
      losses = [
        [
          json.loads(line)['loss']
          for line in (w / category / f'seed_{seed}' / 'metrics.jsonl').open()
        ]
        for w in (a, b)
      ]
      assert losses[0] == pytest.approx(losses[1], abs=1e-6)
  names = ('counts', 'failed', 'notes')
  assert {n: found[n] for n in names} == {n: expected[n] for n in names}


@pytest.mark.slow
def test_two_processes_are_one_run(tiny_config, tmp_path, make_category):
  """Killed gently and resumed they end as one process with two devices; five minutes."""
  make_category(tmp_path / 'data')
  make_category(tmp_path / 'data', 'nut', train=13)
  tiny_config.train.epochs = 30
  tiny_config.train.checkpoint_steps = 1000
  one, two, gone = (tmp_path / name for name in ('one', 'two', 'gone'))
  finish(start(command(tiny_config, one), 2))

  # The second process has no folder, and one of its own images is broken for a while.
  other = tmp_path / 'other'
  make_category(other)
  nut = make_category(other, 'nut', train=13)
  broken = nut / 'train' / 'good' / '003.png'
  content = broken.read_bytes()
  broken.write_bytes(b'')
  own = ((), (f'--config.data.dir={other}',))
  both = start_two(tiny_config, (two, gone), free_port(), own=own)
  log = two / 'bolt' / 'seed_0' / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not (log.exists() and log.read_text().count('\n') >= 5):
    assert time.monotonic() < deadline
    assert both[0].poll() is None
    time.sleep(0.05)
  both[1].send_signal(signal.SIGTERM)
  for process in both:
    assert 'the same command resumes' in finish(process, interrupt.EXIT_CODE)
  saved = [int(p.name) for p in (two / 'bolt' / 'seed_0' / 'checkpoints').iterdir()]
  assert len(saved) == 1
  assert saved[0] == log.read_text().count('\n') < 30 * 10 // 8

  both = start_two(tiny_config, (two, gone), free_port(), own=own)
  output = finish(both[0], 1)
  assert (
    'nut failed: Process 0 and process 1 have different images of nut (of process 1, ' in output
  )
  assert '1 has another content (train/good/003.png)); start all of them' in output
  assert 'failed' not in finish(both[1], 1)  # only the first one speaks
  broken.write_bytes(content)
  both = start_two(tiny_config, (two, gone), free_port(), own=own)
  assert 'bolt: finished already' in finish(both[0])
  finish(both[1])
  assert not gone.exists()
  assert_same_run(two, one)
  environment = json.loads((two / 'results.json').read_text())['environment']
  assert (environment['device']['number'], environment['processes']) == (2, 2)

  both = start_two(
    tiny_config, (two, gone), free_port(), '--mode=evaluate', own=((), ('--dump-maps',))
  )
  for process in both:
    assert 'memkd_jax: Process 0 and process 1 have different' in finish(process, 1)
  both = start_two(tiny_config, (two, gone), free_port(), '--config.parallel.axis=category')
  for process in both:
    assert 'axis=category is for the devices of one process' in finish(process, 1)
  both = start_two(tiny_config, (two, gone), free_port(), '--mode=evaluate')
  for process in both:
    finish(process)
  assert_same_run(two, one)


@pytest.mark.slow
def test_a_lost_process_ends_the_others(tiny_config, tmp_path, make_category):
  """With one sentence, and with what was saved; one minute."""
  make_category(tmp_path / 'data')
  tiny_config.train.epochs = 3000
  tiny_config.train.checkpoint_steps = 2
  workdirs = (tmp_path / 'run', tmp_path / 'gone')
  both = start_two(tiny_config, workdirs, free_port())
  log = tmp_path / 'run' / 'bolt' / 'seed_0' / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not (log.exists() and log.read_text().count('\n') >= 5):
    assert time.monotonic() < deadline
    assert both[0].poll() is None
    time.sleep(0.05)
  both[1].kill()
  output = finish(both[0], 1)
  assert 'memkd_jax: another process has ended' in output
  assert 'Traceback' not in output
  both[1].communicate()
  assert list((tmp_path / 'run' / 'bolt' / 'seed_0' / 'checkpoints').iterdir())


@pytest.mark.slow
def test_a_full_disk_ends_all_processes(tiny_config, tmp_path, make_category, mount_disk):
  """With one sentence of both, though only one writes; then they go on; one minute."""
  make_category(tmp_path / 'data')
  tiny_config.train.checkpoint_steps = 1
  disk = mount_disk(1400)  # two checkpoints fit, the third does not
  workdirs = (disk / 'run', tmp_path / 'gone')
  both = start_two(tiny_config, workdirs, free_port())
  for process in both:
    output = finish(process, 1)
    assert 'run/bolt/seed_0/checkpoints: No space left on device; make room there' in output
    assert 'Traceback' not in output
  mount_disk(100_000)
  for process in start_two(tiny_config, workdirs, free_port()):
    finish(process)
  log = (disk / 'run' / 'bolt' / 'seed_0' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in log] == list(range(1, 6))


@pytest.mark.slow
@pytest.mark.parametrize('cache', ['auto', 'host', 'off'])
def test_categories_on_devices_are_single_runs(tiny_config, tmp_path, make_category, cache):
  """Six runs of three categories on four devices, over 20 steps; three minutes each."""
  for name, number in (('bolt', 16), ('nut', 19), ('pin', 23)):
    make_category(tmp_path / 'data', name, train=number)
  tiny_config.train.epochs = 10
  tiny_config.train.checkpoint_steps = 7
  tiny_config.train.cache_features = cache
  tiny_config.train.holdout = 0.25 if cache == 'host' else 0.0
  seeds = '--config.seeds=0,1'
  alone, together = tmp_path / 'alone', tmp_path / 'together'
  finish(start(command(tiny_config, alone, seeds), 1))
  finish(start(command(tiny_config, together, seeds, '--config.parallel.axis=category'), 4))
  assert_same_run(together, alone, seeds=(0, 1))
  written = ('memory.json', 'memory.png', 'figure.png', 'curves.png', 'result.json')
  for name in (*written, 'model.json', 'model.safetensors'):
    assert (together / 'nut' / 'seed_1' / name).stat().st_size > 100
  if cache == 'host':
    held_out = [
      Workdir(folder).read_calibration('pin', 1).scores for folder in (alone, together)
    ]
    assert len(held_out[0]) == 6
    np.testing.assert_allclose(held_out[0], held_out[1], atol=1e-6)
