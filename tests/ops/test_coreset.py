import numpy as np
import pytest

from memkd_jax.ops.coreset import k_centres


def brute_force(rows, number, first):
  """Pick after pick in float64, which is exact for small integers."""
  rows = rows.astype(np.float64)
  picked, nearest = [], np.full(len(rows), np.inf)
  for _ in range(number):
    pick = first if not picked else int(nearest.argmax())
    nearest = np.minimum(nearest, ((rows - rows[pick]) ** 2).sum(-1))
    picked.append(pick)
    nearest[picked] = -1
  return picked


def small_integers(kind, rng):
  """Rows whose distances float32 has exactly, so that every tie is one, and none is made."""
  if kind == 'random':
    return rng.integers(-8, 9, (3000, 7))
  if kind == 'clustered':
    return 40 * rng.integers(-3, 4, (12, 7))[rng.integers(0, 12, 3000)] + rng.integers(
      -2, 3, (3000, 7)
    )
  if kind == 'line':
    return rng.integers(0, 4000, (3000, 1))
  if kind == 'duplicates':
    return rng.integers(-4, 5, (150, 7))[rng.integers(0, 150, 3000)]
  return np.ones((3000, 2), int)


@pytest.mark.parametrize('kind', ['random', 'clustered', 'line', 'duplicates', 'equal'])
@pytest.mark.parametrize(('number', 'first'), [(1, 3), (2, 0), (700, 2999), (3000, 7)])
def test_picks_are_those_of_brute_force_with_all_ties(rng, kind, number, first):
  rows = small_integers(kind, rng).astype(np.float32)
  found = k_centres(rows, number, first)
  assert found.tolist() == brute_force(rows, number, first)


@pytest.mark.parametrize(('number', 'first'), [(1, 3), (2, 0), (40, 7), (300, 299)])
def test_picks_of_real_numbers_are_those_of_brute_force(rng, number, first):
  rows = rng.normal(size=(300, 7)).astype(np.float32)
  found = k_centres(rows, number, first)
  assert found.tolist() == brute_force(rows, number, first)
  assert len(set(found)) == number


@pytest.mark.parametrize('rows', [1, 2, 3])
def test_all_of_few_rows_can_be_picked(rng, rows):
  found = k_centres(rng.normal(size=(rows, 4)), rows, rows - 1)
  assert found[0] == rows - 1
  assert sorted(found) == list(range(rows))


def test_of_equal_rows_the_first_is_taken():
  rows = np.array([[0.0], [1.0], [1.0], [-1.0]], np.float32)
  assert k_centres(rows, 3, 0).tolist() == [0, 1, 3]


def test_where_the_rows_lie_does_not_matter(rng):
  rows = rng.integers(-8, 9, (500, 7)).astype(np.float32)
  assert k_centres(rows + 2.0**16, 300, 5).tolist() == brute_force(rows, 300, 5)


def test_rows_that_are_no_numbers_come_to_an_end():
  rows = np.full((50, 3), np.nan)
  assert len(k_centres(rows, 20, 0)) == 20


def test_one_pass_serves_many_picks(rng):
  for rows in (rng.normal(size=(20_000, 32)), rng.uniform(size=(20_000, 2))):
    told = []
    k_centres(rows.astype(np.float32), 1000, 0, told.append)
    assert sum(told) == 1000
    assert len(told) < 100


def test_progress_is_told_and_may_end_it(rng):
  rows, told = rng.normal(size=(3000, 3)).astype(np.float32), []
  k_centres(rows, 600, 0, told.append)
  assert sum(told) == 600
  assert len(told) > 2

  def stop(picks):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    k_centres(rows, 600, 0, stop)
