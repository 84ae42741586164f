"""Signals in processes of their own; they import no jax, and so start at once."""

import contextlib
import signal
import subprocess
import sys
import threading

import pytest

from memkd_jax.runtime import interrupt

STEPS = """
import hashlib, sys
from memkd_jax.runtime import interrupt

def step(seconds):  # like a compiled step, which Python cannot interrupt
  hashlib.pbkdf2_hmac('sha256', b'', b'', int(seconds * 1_000_000))

try:
  with interrupt.handled(), interrupt.deferred() as stop_after:
    for number in range(1, 1000):
      print(number, flush=True)
      step({seconds})
      if stop_after():
        print('saved', number, flush=True)
        break
except interrupt.Interrupted as error:
  print('stopped by', error)
  sys.exit(interrupt.EXIT_CODE)
"""


def start(program):
  return subprocess.Popen(
    [sys.executable, '-c', program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_step_is_finished_and_saved(number):
  process = start(STEPS.format(seconds=0.2))
  assert process.stdout.readline() == '1\n'
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert process.returncode == interrupt.EXIT_CODE == 75
  *_, last, saved, stopped = ['1', *out.splitlines()]
  assert saved == f'saved {last}'
  assert int(last) <= 2
  assert stopped == f'stopped by {number.name}'
  assert f'{number.name}: finishing the step, then saving' in err


def test_a_second_signal_stops_at_once():
  process = start(STEPS.format(seconds=300))
  assert process.stdout.readline() == '1\n'
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() == '\n'
  assert 'a second signal stops at once' in process.stderr.readline()
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM
  assert 'saved' not in out


def test_where_no_step_is_taken_it_is_raised_at_once():
  before = signal.getsignal(signal.SIGTERM)
  with interrupt.handled():
    with pytest.raises(interrupt.Interrupted, match='SIGTERM'):
      signal.raise_signal(signal.SIGTERM)
    # Even if that exception was swallowed, as Python does in callbacks.
    with pytest.raises(interrupt.Interrupted), interrupt.deferred():
      pytest.fail('went on')
  assert signal.getsignal(signal.SIGTERM) == before
  with interrupt.handled(), interrupt.deferred() as stop_after:
    assert not stop_after()


def test_an_error_in_the_step_is_not_hidden_by_a_signal():
  with interrupt.handled():
    with pytest.raises(ValueError), interrupt.deferred():
      signal.raise_signal(signal.SIGTERM)
      raise ValueError
    with pytest.raises(interrupt.Interrupted):
      interrupt.raise_if_asked()


def test_a_signal_waits_for_the_steps_of_all_threads():
  within, stopped = threading.Barrier(3), []

  def train():
    with contextlib.suppress(interrupt.Interrupted), interrupt.deferred() as stop_after:
      within.wait(60)
      within.wait(60)  # for the signal
      stopped.append(stop_after())

  def stay_outside():
    with interrupt.deferred():
      pass
    signal.raise_signal(signal.SIGTERM)  # handled in the main thread

  with interrupt.handled():
    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
      thread.start()
    within.wait(60)
    other = threading.Thread(target=stay_outside)
    other.start()
    other.join()
    within.wait(60)
    for thread in threads:
      thread.join()
    assert stopped == [True, True]
    with pytest.raises(interrupt.Interrupted, match='SIGTERM'):
      interrupt.raise_if_asked()


def test_processes_stop_where_they_agree_to(monkeypatch):
  told, answers = [], iter([False, False, True])
  monkeypatch.setattr(interrupt._Together, 'tell', lambda: told.append('others'))
  monkeypatch.setattr(interrupt._Together, 'agree', lambda: next(answers))
  with interrupt.handled():
    signal.raise_signal(signal.SIGTERM)  # which is not raised, since others must hear of it
    with pytest.raises(interrupt.Interrupted, match='SIGTERM'), interrupt.deferred() as stop:
      assert not stop()
      assert stop()
    with pytest.raises(interrupt.Interrupted):
      interrupt.raise_if_asked()  # agreed is agreed
  assert told == ['others']
