"""The rule that ends a training, alone and in the loop."""

import json

import numpy as np
import pytest

from memkd_jax.training import metrics_log
from memkd_jax.training.plateau import FILE, Plateau, has_levelled


def ends_at(losses, patience):
  """By hand: after each check, whether all of the last ones are no better than before."""
  for number in range(1, len(losses) + 1):
    seen = losses[:number]
    if number <= patience:
      continue
    lowest = min(seen[: number - patience])
    if all(loss >= 0.99 * lowest for loss in seen[number - patience :]):
      return number
  return None


@pytest.mark.parametrize('patience', [1, 2, 5])
def test_it_ends_where_nothing_falls_any_more(rng, patience):
  found = []
  for _ in range(50):
    losses = (np.exp(-np.arange(30) / 5) + 0.2 * rng.random(30)).tolist()
    levelled = [has_levelled(losses[:n], patience) for n in range(1, 31)]
    expected = ends_at(losses, patience)
    found.append(expected)
    assert (levelled.index(True) + 1 if True in levelled else None) == expected
  assert len(set(found)) > 2


def test_a_fall_of_less_than_a_hundredth_is_none():
  assert has_levelled([1.0, 0.995], 1)
  assert not has_levelled([1.0, 0.985], 1)
  assert not has_levelled([1.0], 1)
  assert not has_levelled([], 3)


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'bolt'


def make(folder, losses, asked=None, patience=2):
  def loss(state):
    if asked is not None:
      asked.append(state)
    return losses[state]

  return Plateau(folder, loss, check_steps=3, patience=patience)


def test_checks_are_kept_for_a_resumed_training(folder):
  losses = {3: 1.0, 6: 0.5, 9: 0.6, 12: 0.7, 15: 0.1}
  asked = []
  plateau = make(folder, losses, asked)
  assert not plateau.begin(0)
  assert [plateau.check(step, step) for step in range(1, 10)] == [False] * 9
  assert asked == [3, 6, 9]
  lines = [json.loads(line) for line in (folder / FILE).open()]
  assert lines == [{'step': step, 'loss': losses[step]} for step in (3, 6, 9)]

  resumed = make(folder, losses)
  assert not resumed.begin(7)  # the check of step 9 is made again
  assert [line['step'] for line in metrics_log.read(folder / FILE)] == [3, 6]
  assert [resumed.check(step, step) for step in (8, 9, 10, 11, 12)] == [False] * 4 + [True]
  assert make(folder, losses).begin(12)  # it had ended
  assert not make(folder, losses, patience=3).begin(12)
