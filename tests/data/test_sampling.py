import numpy as np
import pytest

from memkd_jax.data import sampling


def test_batches_are_cut_from_the_concatenated_permutations():
  images, batch, epochs = 10, 4, 6
  steps = sampling.number_of_steps(epochs, images, batch)
  assert steps == 15
  stream = np.concatenate(
    [sampling.batch_indices(0, 'bolt', images, batch, step) for step in range(steps)]
  )
  for epoch in stream.reshape(epochs, images):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(images))
  assert len({tuple(epoch) for epoch in stream.reshape(epochs, images)}) == epochs


def test_a_batch_larger_than_the_set_spans_epochs():
  indices = sampling.batch_indices(0, 'bolt', 3, 8, 1)
  assert indices.shape == (8,)
  assert np.bincount(indices, minlength=3).min() >= 2


def test_the_last_images_that_fill_no_batch_are_left_out():
  assert sampling.number_of_steps(200, 209, 16) == 2612
  assert sampling.number_of_steps(1, 3, 8) == 0


def test_order_depends_on_seed_and_category_only():
  def first(seed, category):
    return sampling.batch_indices(seed, category, 100, 50, 0).tolist()

  assert first(0, 'bolt') == first(0, 'bolt')
  assert first(0, 'bolt') != first(1, 'bolt')
  assert first(0, 'bolt') != first(0, 'nut')
  assert sampling.category_seed(0, 'bolt') != sampling.category_seed(0, 'nut')


@pytest.mark.parametrize(('resample', 'draws'), [('step', 6), ('epoch', 2), ('never', 1)])
def test_exemplars_are_redrawn_as_asked_for(resample, draws):
  batches = [
    sampling.exemplar_indices(0, 'bolt', 30, 5, step, 10, resample) for step in range(6)
  ]
  assert len({tuple(batch) for batch in batches}) == draws
  for batch in batches:
    assert len(set(batch)) == 5


def test_more_exemplars_than_images_repeat():
  assert sampling.exemplar_indices(0, 'bolt', 3, 16, 0, 4).shape == (16,)


@pytest.mark.parametrize(
  ('images', 'share', 'held'), [(240, 0.1, 24), (10, 0.01, 1), (2, 0.5, 1), (1, 0.5, 0)]
)
def test_holdout_parts_the_images(images, share, held):
  kept, out = sampling.holdout_indices(0, 'bolt', images, share)
  assert len(out) == held
  np.testing.assert_array_equal(np.sort(np.concatenate([kept, out])), np.arange(images))


def test_holdout_is_seeded_and_off_by_default():
  kept, out = sampling.holdout_indices(0, 'bolt', 9, 0.0)
  np.testing.assert_array_equal(kept, np.arange(9))
  assert len(out) == 0
  first, again, other, category = (
    sampling.holdout_indices(seed, name, 100, 0.2)[1].tolist()
    for seed, name in ((0, 'bolt'), (0, 'bolt'), (1, 'bolt'), (0, 'nut'))
  )
  assert first == again
  assert other != first != category
