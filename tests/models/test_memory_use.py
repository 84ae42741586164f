import numpy as np
import pytest

from memkd_jax.models import memory_use


def test_entropy_is_a_share_of_its_maximum(rng):
  assert memory_use.addressing_entropy(np.full((3, 7), 1 / 7)) == pytest.approx([1, 1, 1])
  assert memory_use.addressing_entropy(np.eye(4)) == pytest.approx([0] * 4)
  weights = rng.dirichlet(np.ones(5), size=(2, 3))
  slow = [[-sum(w * np.log(w) for w in row) / np.log(5) for row in image] for image in weights]
  np.testing.assert_allclose(memory_use.addressing_entropy(weights), slow, rtol=1e-5)
  assert memory_use.addressing_entropy(np.ones((2, 1))).tolist() == [0, 0]


def test_mean_absolute_cosine(rng):
  items = rng.normal(size=(4, 3))
  slow = [
    abs(items[i] @ items[j]) / np.linalg.norm(items[i]) / np.linalg.norm(items[j])
    for i in range(4)
    for j in range(4)
    if i != j
  ]
  assert memory_use.mean_absolute_cosine(items) == pytest.approx(np.mean(slow), rel=1e-5)
  assert memory_use.mean_absolute_cosine(items[:1]) == 0


def test_positions_below_which_any_pixel_is_anomalous():
  masks = np.zeros((2, 8, 12), bool)
  masks[0, 3, 4] = True
  masks[1, 7, :5] = True
  positions = memory_use.anomalous_positions(masks, (4, 6))
  assert np.argwhere(positions).tolist() == [[0, 1, 2], [1, 3, 0], [1, 3, 1], [1, 3, 2]]


@pytest.mark.parametrize('with_masks', [True, False])
def test_a_summary(rng, with_masks):
  weights = rng.dirichlet(np.ones(5), size=(6, 2, 2))
  entropy = np.asarray(memory_use.addressing_entropy(weights))
  cosine, labels = rng.random((3, 2, 2)), np.array([0, 1, 1])
  masks = np.zeros((3, 4, 4), bool)
  masks[1, 0, 0] = masks[2, 3, 3] = True
  memory = {'keys': np.eye(5), 'values': np.ones((5, 2))}
  cosines = memory_use.split_cosines(cosine, labels, masks if with_masks else None)
  summary = memory_use.summarize(weights.mean((1, 2)), entropy, memory)
  assert sum(summary['usage']) == pytest.approx(1)
  assert summary['usage'] == pytest.approx(weights.reshape(-1, 5).mean(0))
  assert summary['used_items'] == pytest.approx(5 ** summary['entropy'])
  assert (summary['keys_cosine'], summary['values_cosine']) == pytest.approx((0, 1))
  anomalous = [cosine[1, 0, 0], cosine[2, 1, 1]] if with_masks else cosine[1:].ravel()
  total = cosine.sum() - np.sum(anomalous)
  assert memory_use.mean_cosines(cosines) == {
    'normal': pytest.approx(total / (12 - len(anomalous))),
    'anomalous': pytest.approx(np.mean(anomalous)),
  }


def test_items_tell_categories_or_do_not(rng):
  owners, names = np.array([0, 0, 1, 2]), ('bolt', 'nut', 'washer')
  apart = np.eye(4)[[0, 0, 1, 2]]
  found = memory_use.by_category(apart, owners, names)
  assert found['category_information'] == pytest.approx(1)
  assert found['usage_by_category'] == {
    'bolt': [1, 0, 0, 0],
    'nut': [0, 1, 0, 0],
    'washer': [0, 0, 1, 0],
  }
  alike = np.tile(rng.dirichlet(np.ones(4)), (4, 1))
  assert memory_use.by_category(alike, owners, names)['category_information'] < 1e-12
  assert memory_use.by_category(apart[:2], owners[:2], names[:1])['category_information'] == 0


def test_a_category_without_images_is_left_out(rng):
  usage = rng.dirichlet(np.ones(4), size=3)
  found = memory_use.by_category(usage, np.array([0, 2, 2]), ('bolt', 'nut', 'washer'))
  assert list(found['usage_by_category']) == ['bolt', 'washer']
  assert 0 < found['category_information'] <= 1


def test_category_information_is_mutual_information(rng):
  usage, owners = rng.dirichlet(np.ones(5), size=6), np.array([0, 1, 1, 2, 0, 0])
  joint = np.zeros((3, 5))
  for c in range(3):
    joint[c] = usage[owners == c].mean(0) / 3
  information = sum(
    joint[c, i] * np.log(joint[c, i] / (joint[c].sum() * joint[:, i].sum()))
    for c in range(3)
    for i in range(5)
  )
  found = memory_use.by_category(usage, owners, 'abc')
  assert found['category_information'] == pytest.approx(information / np.log(3))


def test_the_mean_of_no_position_is_none():
  cosines = memory_use.split_cosines(np.full((2, 3, 3), 0.5), np.zeros(2), None)
  assert memory_use.mean_cosines(cosines) == {'normal': 0.5, 'anomalous': None}
