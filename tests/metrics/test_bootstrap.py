import numpy as np
import pytest

from memkd_jax.metrics import auroc, auroc_interval


def test_equals_a_loop_over_resamples_in_distribution(rng):
  labels = np.repeat([0, 1], [30, 20])
  scores = np.round(rng.normal(size=50) + labels, 1)
  normal, anomalous = scores[labels == 0], scores[labels == 1]
  resampled = [
    auroc(labels, np.concatenate([rng.choice(normal, 30), rng.choice(anomalous, 20)]))
    for _ in range(4000)
  ]
  expected = np.quantile(resampled, [0.05, 0.95])
  interval = auroc_interval(labels, scores, confidence=0.9, samples=4000)
  np.testing.assert_allclose(interval, expected, atol=0.015)
  assert interval[0] < auroc(labels, scores) < interval[1]


def test_is_seeded(rng):
  labels, scores = np.repeat([0, 1], 20), rng.normal(size=40)
  assert auroc_interval(labels, scores) == auroc_interval(labels, scores)
  assert auroc_interval(labels, scores) != auroc_interval(labels, scores, seed=1)


def test_covers_the_truth_about_as_often_as_it_says():
  """The AUROC of N(1, 1) against N(0, 1) is 0.7602."""
  rng, inside = np.random.default_rng(0), 0
  for _ in range(200):
    labels = np.repeat([0, 1], 40)
    low, high = auroc_interval(labels, rng.normal(size=80) + labels, 0.9, samples=300)
    inside += low <= 0.76025 <= high
  assert 0.83 <= inside / 200 <= 0.96


@pytest.mark.parametrize(
  ('labels', 'options', 'message'),
  [
    ([1, 1], {}, 'nothing is normal'),
    ([0, 0], {}, 'nothing is anomalous'),
    ([0, 1], {'confidence': 1}, 'confidence'),
    ([0, 1], {'samples': 0}, 'samples'),
  ],
)
def test_bad_input_is_named(labels, options, message):
  with pytest.raises(ValueError, match=message):
    auroc_interval(labels, [0.1, 0.2], **options)
