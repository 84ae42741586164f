from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from memkd_jax.teachers.kept_features import KeptFeatures

ROOM = {'size': 24, 'free': 4 * 24}  # bytes of three stages
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)


@pytest.fixture
def compute():
  """Gives features of so many stages, and counts how often it was asked."""

  def make(depth):
    def compute():
      make.calls += 1
      return [np.full((2, 1, 1, 1), k, np.float32) for k in range(1, depth + 1)]

    return compute

  make.calls = 0
  return make


def test_features_are_computed_once(compute):
  kept = KeptFeatures()
  first = kept.take('a', IMAGES, 3, compute(3), **ROOM)
  assert kept.saved_seconds == 0
  again = kept.take('a', IMAGES.copy(), 2, compute(2), **ROOM)
  assert compute.calls == 1 and kept.saved_seconds > 0
  assert [s.item(0) for s in again] == [1, 2] and again[0] is first[0]


def test_each_thread_has_saved_its_own(compute):
  kept = KeptFeatures()
  kept.take('a', IMAGES, 3, compute(3), **ROOM)

  def elsewhere():
    kept.take('a', IMAGES, 3, compute(3), **ROOM)
    return kept.saved_seconds

  with ThreadPoolExecutor(1) as pool:
    assert pool.submit(elsewhere).result() > 0
  assert kept.saved_seconds == 0


@pytest.mark.parametrize(
  ('teacher', 'images', 'depth'),
  [('b', IMAGES, 3), ('a', IMAGES + 1, 3), ('a', IMAGES, 4)],
  ids=['teacher', 'images', 'depth'],
)
def test_others_are_computed_anew(compute, teacher, images, depth):
  kept = KeptFeatures()
  kept.take('a', IMAGES, 3, compute(3), **ROOM)
  assert len(kept.take(teacher, images, depth, compute(depth), **ROOM)) == depth
  assert compute.calls == 2 and kept.saved_seconds == 0


def test_what_does_not_fit_is_not_computed(compute):
  kept = KeptFeatures()
  assert kept.take('a', IMAGES, 3, compute(3), size=24, free=4 * 24 - 1) is None
  assert compute.calls == 0
  kept.take('a', IMAGES, 3, compute(3), **ROOM)
  assert kept.take('a', IMAGES, 3, compute(3), size=24, free=0) is not None  # it is there
