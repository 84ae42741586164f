"""What a method gets for nothing."""

import numpy as np
import pytest

from memkd_jax.methods.base import Method, Task


class Fake(Method):
  """Its map is the first channel of the first stage."""

  name, stages, diagnosed_stages, notes = 'Fake', (1,), (), ()

  def maps(self, params, features, images):
    return {1: params * features[0][..., 0]}


@pytest.fixture
def features(rng):
  return (rng.normal(size=(2, 4, 4, 3)),)


def test_an_image_is_as_abnormal_as_its_worst_position(features, rng):
  maps = Fake().maps(2.0, features, None)
  combined = rng.normal(size=(2, 8, 8)).astype(np.float32)
  scores = Fake().image_scores(2.0, features, maps, combined)
  np.testing.assert_array_equal(scores, combined.max(axis=(1, 2)))


def test_nothing_is_diagnosed_and_the_maps_are_the_same(features):
  maps, diagnosis = Fake().diagnosed_maps(2.0, features, None)
  assert diagnosis == {}
  np.testing.assert_array_equal(maps[1], 2 * features[0][..., 0])


def test_a_task_of_a_category_learns_and_scores_it_alone():
  task = Task.of_category('bolt', seed=3)
  assert task == Task('bolt', 3, ('bolt',), ('bolt',))
  assert len({task, Task.of_category('bolt', 3), Task.of_category('nut', 3)}) == 2
