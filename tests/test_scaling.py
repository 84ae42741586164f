"""The same run whatever the number of devices and processes."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FLAGS = '--xla_backend_optimization_level=0 --xla_force_host_platform_device_count='


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


def test_twenty_losses_agree_in_float64_on_devices_and_in_processes(tmp_path):
  """One device, four of one process, and two processes with one each."""
  assert_same_losses(steps_of(tmp_path, [((1, 4), 1), ((2,), 2)]))


@pytest.mark.slow
def test_twenty_losses_agree_on_up_to_eight_devices_and_in_two_processes(tmp_path):
  """About three minutes."""
  runs = [((1, 2, 4, 8), 1), *(((n,), 2) for n in (2, 4, 8))]
  assert_same_losses(steps_of(tmp_path, runs))


def assert_same_losses(runs):
  losses = [run['losses'] for run in runs.values()]
  assert len(losses) > 2
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
