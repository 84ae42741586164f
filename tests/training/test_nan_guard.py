import pytest

from memkd_jax.training.nan_guard import order


@pytest.mark.parametrize('running_order', [(3, 2, 1), (1, 2, 3)])
def test_causes_come_before_consequences(running_order):
  first, second, third = (f'kd_{k}' for k in running_order)
  expected = [
    f'm{running_order[0]}_keys_cosine',
    f'm{running_order[1]}_values_cosine',
    f'm{running_order[0]}_entropy',
    f'm{running_order[2]}_entropy',
    first,
    second,
    third,
    'kd',
    'nm',
    'orth',
    'loss',
    'grad_norm',
    'another',
  ]
  assert order(sorted(expected), running_order) == expected
  assert order([], running_order) == []
