"""A process alone. What several agree on is in test_scaling.py."""

import pytest

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts


def test_a_process_alone_is_the_first_and_is_heard(capsys):
  assert hosts.count() == 1
  assert hosts.is_main()
  with hosts.one_run():
    print('heard')
  assert capsys.readouterr().out == 'heard\n'
  assert not hosts.reached_preemption()


def test_errors_of_a_process_alone_stay_as_they_are():
  error = FileNotFoundError(2, 'gone', 'x')
  for wrapped in (hosts.raise_together, hosts.one_run):
    with pytest.raises(FileNotFoundError) as caught, wrapped():
      raise error
    assert caught.value is error
  assert hosts.on_main(lambda: {1: 2}) == {1: 2}
  assert hosts.shared_errors() == (UserError, OSError)
