import numpy as np
import pytest

from memkd_jax.training.schedule import rate_factor


def test_a_constant_rate():
  assert {rate_factor('constant', 0.5, step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
  ('steps', 'warmup'), [(10, 0.0), (10, 0.3), (7, 0.5), (1, 0.0), (20, 0.9)]
)
def test_a_cosine_by_hand(steps, warmup):
  factors = [rate_factor('cosine', warmup, step, steps) for step in range(steps)]
  rising = round(warmup * steps)
  line = np.linspace(0, 1, rising + 2)[1:-1]
  fall = (1 + np.cos(np.linspace(0, np.pi, steps - rising + 1)[:-1])) / 2
  np.testing.assert_allclose(factors, [*line, *fall], atol=1e-12)
  assert max(factors) == 1 and factors.index(1) == rising
  assert min(factors) > 0
