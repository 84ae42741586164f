import subprocess
import sys
import threading

import pytest

from memkd_jax.data.prefetch import Prefetch


def test_readings_come_in_their_order_from_any_number_on():
  asked = []

  def read(number):
    asked.append((number, threading.current_thread() is threading.main_thread()))
    return number, 'read'

  with Prefetch(read, 20) as take:
    assert [take(n) for n in range(7, 20)] == [(n, 'read') for n in range(7, 20)]
    assert sorted(asked) == [(n, False) for n in range(7, 20)]
    assert [take(n) for n in (3, 4, 12)] == [(3, 'read'), (4, 'read'), (12, 'read')]


def test_what_comes_later_is_read_before_it_is_asked_for():
  later = threading.Event()

  def read(number):
    if number == 2:
      later.set()
    return number

  with Prefetch(read, 10) as take:
    take(0)
    assert later.wait(30)


def test_an_error_comes_when_its_reading_is_asked_for():
  with Prefetch(lambda n: 1 / (n - 10), 20) as take:
    assert take(9) == -1
    with pytest.raises(ZeroDivisionError):
      take(10)


def test_grain_is_imported_where_something_is_read_ahead_alone():
  code = 'import memkd_jax, memkd_jax.worker, sys; print("grain" in sys.modules)'
  command = [sys.executable, '-c', code]
  assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == 'False\n'
