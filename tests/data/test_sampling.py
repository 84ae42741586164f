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


def test_exemplars_of_several_categories_are_drawn_evenly():
  owners = np.repeat([0, 1, 2], [40, 9, 3])
  draws = [
    sampling.exemplar_indices(0, 'joint', 52, 8, step, 10, owners=owners) for step in range(30)
  ]
  numbers = np.array([np.bincount(owners[draw], minlength=3) for draw in draws])
  assert set(map(tuple, numbers.tolist())) == {(2, 3, 3), (3, 2, 3), (3, 3, 2)}
  assert all(len(set(draw.tolist())) == 8 for draw in draws)
  few = sampling.exemplar_indices(0, 'joint', 52, 16, 0, 10, owners=owners)
  assert sorted(np.bincount(owners[few])) == [5, 5, 6]  # of 3 images some twice


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


def plan(images, share, calibration, folds=4, seed=0, category='bolt'):
  return sampling.calibration_plan(seed, category, images, share, calibration, folds)


@pytest.mark.parametrize(
  ('images', 'share'), [(240, 0.1), (12, 0.1), (9, 0.0), (1, 0.5), (0, 0)]
)
def test_a_plan_that_holds_out_is_the_share_alone(images, share):
  kept, held = sampling.holdout_indices(0, 'bolt', images, share)
  found = plan(images, share, 'holdout')
  np.testing.assert_array_equal(found.kept, kept)
  np.testing.assert_array_equal(found.held, held)
  assert found.folds == ()


@pytest.mark.parametrize(
  ('images', 'folds', 'sizes'), [(12, 4, [3] * 4), (10, 4, [3, 3, 2, 2]), (3, 4, [1] * 3)]
)
def test_folds_part_the_images(images, folds, sizes):
  found = plan(images, 0.0, 'folds', folds)
  np.testing.assert_array_equal(found.kept, np.arange(images))
  assert len(found.held) == 0
  assert [len(fold) for fold in found.folds] == sizes
  np.testing.assert_array_equal(np.sort(np.concatenate(found.folds)), np.arange(images))
  assert all((np.diff(fold) > 0).all() for fold in found.folds)


def test_one_image_has_no_folds():
  for images in (0, 1):
    found = plan(images, 0.1, 'folds')
    assert (len(found.kept), len(found.held), found.folds) == (images, 0, ())


@pytest.mark.parametrize(
  ('images', 'share', 'held', 'folds'),
  [
    (240, 0.1, 24, 0),
    (90, 0.1, 9, 0),
    (89, 0.1, 9, 0),
    (27, 0.1, 9, 0),
    (26, 0.1, 0, 4),
    (12, 0.1, 0, 4),
    (2, 0.1, 0, 2),
    (20, 0.5, 10, 0),  # as many as were asked for
    (240, 0.0, 0, 0),
    (12, 0.0, 0, 0),
  ],
)
def test_auto_holds_out_where_there_are_enough(images, share, held, folds):
  found = plan(images, share, 'auto')
  assert (len(found.held), len(found.folds)) == (held, folds)
  together = np.concatenate([found.kept, found.held])
  np.testing.assert_array_equal(np.sort(together), np.arange(images))
  if held and held == round(share * images):
    np.testing.assert_array_equal(found.held, plan(images, share, 'holdout').held)


def test_folds_are_seeded():
  first, again, other, category = (
    [fold.tolist() for fold in plan(40, 0.1, 'folds', seed=seed, category=name).folds]
    for seed, name in ((0, 'bolt'), (0, 'bolt'), (1, 'bolt'), (0, 'nut'))
  )
  assert first == again
  assert other != first != category


def test_images_of_a_batch_are_disturbed_by_seeds_of_their_own():
  first, again, later, other = (
    sampling.image_seeds(seed, 'bolt', step, 16)
    for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
  )
  assert first.dtype == np.uint32
  np.testing.assert_array_equal(first, again)
  assert len({*first.tolist(), *later.tolist(), *other.tolist()}) == 48
