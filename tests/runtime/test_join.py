"""Joining processes: what fits together. The joining itself is in test_scaling.py."""

import pytest

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts, join

HERE = '127.0.0.1:1234'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((None, 2, None), '--process-count and --process-id need --coordinator=HOST:PORT'),
    (('', None, 0), '--process-count and --process-id need --coordinator=HOST:PORT'),
    (('auto', 2, 0), '--process-count and --process-id need --coordinator=HOST:PORT'),
    (('localhost', 2, 0), '--coordinator=localhost: give auto, or HOST:PORT'),
    (('localhost:0', 2, 0), '--coordinator=localhost:0: give auto, or HOST:PORT'),
    (('localhost:65536', 2, 0), 'give auto, or HOST:PORT'),
    (('no.such.host.invalid:1234', 2, 0), r'no\.such\.host\.invalid is not known'),
    ((HERE, None, None), f'{HERE} needs --process-count=N and a --process-id of 0 to N-1'),
    ((HERE, 2, None), 'needs --process-count=N'),
    ((HERE, 2, 2), 'needs --process-count=N'),
    ((HERE, 2, -1), 'needs --process-count=N'),
    ((HERE, 0, 0), 'needs --process-count=N'),
  ],
)
def test_what_does_not_fit_is_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    join.start(*arguments)


def test_a_process_alone_needs_nothing():
  join.start(None, None, None)
  assert hosts.count() == 1
