"""Against scikit-learn and by definition; the traps of the protocol."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from memkd_jax.metrics import auroc, average_precision, f1_max


def random_case(kind, rng, number=500):
  labels = rng.integers(0, 2, number)
  scores = {
    'random': rng.normal(size=number) + labels,
    'tied': rng.integers(0, 5, number) + labels,
    'constant': np.full(number, 0.25),
    'float32': (rng.normal(size=number) + labels).astype(np.float32),
  }[kind]
  return labels, scores


@pytest.mark.parametrize('kind', ['random', 'tied', 'constant', 'float32'])
@pytest.mark.parametrize('seed', range(5))
def test_agrees_with_scikit_learn(kind, seed):
  labels, scores = random_case(kind, np.random.default_rng(seed))
  assert abs(auroc(labels, scores) - roc_auc_score(labels, scores)) < 1e-12
  ap = average_precision_score(labels, scores)
  assert abs(average_precision(labels, scores) - ap) < 1e-12
  precision, recall, _ = precision_recall_curve(labels, scores)
  f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
  assert abs(f1_max(labels, scores)[0] - f1.max()) < 1e-12


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=30))
def test_by_definition(cases):
  labels, scores = (np.array(x) for x in zip(*cases, strict=True))
  positive, negative = scores[labels], scores[~labels]
  if not len(positive) or not len(negative):
    return
  pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
  assert auroc(labels, scores) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
  ap, last_recall, best = 0.0, 0.0, 0.0
  for threshold in sorted(set(scores.tolist()), reverse=True):
    flagged = scores >= threshold
    hits = int((flagged & labels).sum())
    recall, precision = hits / labels.sum(), hits / flagged.sum()
    ap, last_recall = ap + (recall - last_recall) * precision, recall
    best = max(best, 2 * hits / (flagged.sum() + labels.sum()))
  assert average_precision(labels, scores) == pytest.approx(ap, abs=1e-12)
  f1, threshold = f1_max(labels, scores)
  assert f1 == pytest.approx(best, abs=1e-12)
  flagged = scores >= threshold
  assert f1 == 2 * (flagged & labels).sum() / (flagged.sum() + labels.sum())


def test_a_constant_detector_gets_chance():
  labels = np.array([0, 1, 0, 0, 1, 0, 0, 0])
  assert auroc(labels, np.ones(8)) == 0.5
  assert average_precision(labels, np.ones(8)) == 2 / 8


def test_counts_are_exact_beyond_float32():
  """2^24 + 1 cannot be counted in float32 (protocol, trap 4)."""
  number = 2**24 + 3
  labels = np.zeros(number, bool)
  labels[0] = True
  scores = np.ones(number, np.float32)
  scores[0], scores[1] = 0.0, 2.0
  # One anomaly below everything: every normal pixel counts as a false positive.
  assert auroc(labels, scores) == 0.0
  assert average_precision(labels, scores) == 1 / number
  scores[0] = 1.5
  assert auroc(labels, scores) == (number - 2) / (number - 1)


@pytest.mark.parametrize('metric', [auroc, average_precision, f1_max])
@pytest.mark.parametrize(
  ('labels', 'scores', 'message'),
  [
    ([0, 1], [0.1], r'labels has shape \(2,\), scores has \(1,\)'),
    ([[0, 1]], [[0.1], [0.2]], r'labels has shape \(1, 2\), scores has \(2, 1\)'),
    ([0, 0], [0.1, 0.2], 'nothing is anomalous'),
    ([0, 1], [0.1, np.nan], 'scores holds NaN'),
    ([0, 1], [0.1, np.inf], 'scores holds NaN or infinite'),
    ([0, 2], [0.1, 0.2], 'labels must be bool'),
    ([], [], 'scores is empty'),
    ([0, 1], ['a', 'b'], 'scores must be real'),
  ],
)
def test_bad_input_is_named(metric, labels, scores, message):
  with pytest.raises(ValueError, match=message):
    metric(labels, scores)


def test_auroc_needs_normal_scores():
  with pytest.raises(ValueError, match='nothing is normal'):
    auroc([1, 1], [0.1, 0.2])
