import numpy as np
import pytest

from memkd_jax.ops.coreset import k_centres


def brute_force(rows, number, first):
  squared = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(-1)
  picked, nearest = [first], squared[first].copy()
  while len(picked) < number:
    picked.append(int(nearest.argmax()))
    nearest = np.minimum(nearest, squared[picked[-1]])
  return picked


@pytest.mark.parametrize(('number', 'first'), [(1, 3), (2, 0), (40, 7), (300, 299)])
def test_picks_are_those_of_brute_force(rng, number, first):
  rows = rng.normal(size=(300, 7)).astype(np.float32)
  found = k_centres(rows, number, first)
  assert found.tolist() == brute_force(rows, number, first)
  assert len(set(found)) == number


def test_of_equal_rows_the_first_is_taken():
  rows = np.array([[0.0], [1.0], [1.0], [-1.0]], np.float32)
  assert k_centres(rows, 3, 0).tolist() == [0, 1, 3]


def test_progress_is_told_and_may_end_it(rng):
  rows, told = rng.normal(size=(700, 3)).astype(np.float32), []
  k_centres(rows, 600, 0, told.append)
  assert sum(told) == 600
  assert len(told) > 2

  def stop(picks):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    k_centres(rows, 600, 0, stop)
