import math

import pytest

from memkd_jax.errors import UserError
from memkd_jax.training import nan_guard


def check(terms, find_cause):
  nan_guard.check('bolt', 7, terms, lambda names: sorted(names, reverse=True), find_cause)


def test_where_all_is_finite_nobody_looks_for_a_cause():
  check({'loss': 1.0, 'kd': -1e30, 'm1_entropy': 0.0}, pytest.fail)


@pytest.mark.parametrize(
  ('terms', 'said'),
  [
    ({'loss': math.nan, 'kd': 1.0}, 'loss=nan was the first that is not finite'),
    (
      {'a': math.inf, 'loss': math.nan, 'kd': 1.0, 'c': -math.inf},
      'loss=nan was the first that is not finite (then c=-inf, a=inf)',
    ),
  ],
)
def test_the_first_term_that_is_not_finite_is_named(terms, said):
  steps = []
  with pytest.raises(UserError) as error:
    check(terms, steps.append)
  assert str(error.value) == (
    f'bolt: training stopped at step 7, where {said}; nothing after the last checkpoint was '
    'kept. A lower --config.train.learning_rate may help.'
  )
  assert steps == [7]


def test_what_the_terms_were_computed_from_comes_before_them():
  with pytest.raises(UserError) as error:
    check({'loss': math.nan}, lambda step: ("the teacher's stage 2", 'Check the machine.'))
  assert str(error.value) == (
    "bolt: training stopped at step 7, where the teacher's stage 2 was the first that is not "
    'finite (then loss=nan); nothing after the last checkpoint was kept. Check the machine.'
  )
