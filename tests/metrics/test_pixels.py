"""One pass gives what the single functions give, however it is fed."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from memkd_jax import metrics
from memkd_jax.metrics import PixelScores, chunks, evaluate_pixels

cases = {
  'masks': hnp.arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 1)),
  'maps': hnp.arrays(np.float32, (4, 5, 6), elements=st.integers(-4, 4)),
}


def defined(masks):
  return masks.any() and not masks.all()


def assert_close(a, b):
  np.testing.assert_allclose(dataclasses.astuple(a), dataclasses.astuple(b), atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(**cases)
def test_equals_the_single_functions_exactly(masks, maps):
  if not defined(masks):
    return
  record = evaluate_pixels(masks, maps)
  assert record.auroc == metrics.auroc(masks, maps)
  assert record.average_precision == metrics.average_precision(masks, maps)
  assert record.aupro == metrics.aupro(masks, maps)
  assert (record.f1_max, record.threshold) == metrics.f1_max(masks, maps)
  assert all(0 <= v <= 1 for v in dataclasses.astuple(record)[:5])


@settings(max_examples=100, deadline=None)
@given(**cases, left_out=hnp.arrays(bool, (5, 6)))
def test_pixels_that_are_masked_are_left_out(masks, maps, left_out):
  """As if all that is left of each image were cut out; here by rows, so that regions stay."""
  left_out = np.broadcast_to(left_out.all(axis=1)[:, None], (5, 6)).copy()
  left_out[0] = True
  partly = [np.ma.array(mask, mask=left_out) for mask in masks]
  # Rows that are left out part regions: each stretch of rows is an image of its own.
  whole = PixelScores()
  for mask, map_ in zip(masks, maps, strict=True):
    stretch = []
    for row in range(6):
      if row < 5 and not left_out[row, 0]:
        stretch.append(row)
      elif stretch:
        whole.add(mask[stretch], map_[stretch])
        stretch = []
  kept = masks[:, ~left_out[:, 0]]
  if not defined(kept) or not kept.size:
    return
  assert_close(evaluate_pixels(partly, maps), whole.evaluate())
  binned = evaluate_pixels(partly, maps, bins=1024)
  np.testing.assert_allclose(binned.auroc, whole.evaluate().auroc, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(**cases, order=st.permutations(range(4)))
def test_the_order_of_the_images_changes_nothing(masks, maps, order):
  if defined(masks):
    assert_close(evaluate_pixels(masks, maps), evaluate_pixels(masks[order], maps[order]))


@settings(max_examples=50, deadline=None)
@given(**cases)
def test_only_the_order_of_the_scores_matters(masks, maps):
  if not defined(masks):
    return
  record = evaluate_pixels(masks, maps)
  transformed = evaluate_pixels(masks, np.exp(maps.astype(np.float64)) * 3 - 1)
  same = dataclasses.replace(transformed, threshold=record.threshold)
  assert_close(record, same)


@settings(max_examples=50, deadline=None)
@given(**cases, chunk=st.integers(1, 60))
def test_chunks_of_any_size_give_the_same(masks, maps, chunk):
  if not defined(masks):
    return
  whole = evaluate_pixels(masks, maps)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(chunks, '_CHUNK', chunk)
    assert evaluate_pixels(masks, maps) == whole


def test_aupro_at_several_limits_is_that_of_each(rng):
  masks, maps = rng.integers(0, 2, (3, 8, 8)), rng.normal(size=(3, 8, 8))
  several = metrics.collect_pixels(masks, maps).aupro_at((0.3, 0.05, 0.01))
  assert several == {limit: metrics.aupro(masks, maps, limit) for limit in several}
  assert list(several) == [0.3, 0.05, 0.01]


def test_images_of_different_sizes_and_generators(rng):
  masks = [rng.integers(0, 2, shape) for shape in ((4, 5), (7, 3))]
  maps = [rng.normal(size=mask.shape).astype(np.float32) for mask in masks]
  record = evaluate_pixels((m for m in masks), (m for m in maps))
  labels, scores = (np.concatenate([x.ravel() for x in xs]) for xs in (masks, maps))
  assert record.auroc == metrics.auroc(labels, scores)
  assert record.aupro == metrics.aupro(masks, maps)


@pytest.mark.parametrize(
  'dtype', [np.float16, np.float32, np.float64, np.uint8, np.int64, bool]
)
def test_scores_of_any_real_dtype(rng, dtype):
  maps = rng.integers(0, 2, (2, 6, 6))
  masks = rng.integers(0, 2, (2, 6, 6))
  assert_close(evaluate_pixels(masks, maps.astype(dtype)), evaluate_pixels(masks, maps))


def test_an_image_that_is_refused_adds_nothing():
  collected = PixelScores()
  collected.add([[1, 0]], [[0.5, 0.25]])
  with pytest.raises(ValueError, match=r'maps\[1\] holds NaN'):
    collected.add([[1, 0]], [[np.nan, 0.25]])
  with pytest.raises(ValueError, match=r'masks\[1\] is \(1, 1\)'):
    collected.add([[1]], [[0.5, 0.25]])
  collected.add([[1, 0]], [[0.5, 0.25]])
  assert collected.evaluate().auroc == 1


@pytest.mark.parametrize(
  ('masks', 'message'), [(0, 'nothing is anomalous'), (1, 'nothing is normal')]
)
def test_undefined_metrics_are_errors(masks, message):
  with pytest.raises(ValueError, match=message):
    evaluate_pixels(np.full((1, 2, 2), masks), np.ones((1, 2, 2)))


@pytest.mark.parametrize('threshold', [-1.0, 0.2, 0.5, 0.93, 2.0])
def test_f1_above_a_threshold_is_scikit_learns(rng, threshold):
  masks = rng.random((4, 9, 11)) < 0.2
  maps = np.round(rng.random(masks.shape), 2) + 0.2 * masks
  found = metrics.collect_pixels(masks, maps).f1_above(threshold)
  assert found == pytest.approx(f1_score(masks.ravel(), maps.ravel() > threshold))


def test_f1_is_of_something_anomalous():
  collected = PixelScores()
  collected.add([[0, 0]], [[0.5, 0.25]])
  with pytest.raises(ValueError, match='nothing is anomalous'):
    collected.f1_above(0.3)


def test_the_low_end_of_the_pro_curve(rng):
  masks = rng.random((3, 16, 16)) < 0.1
  maps = rng.random(masks.shape) + 0.3 * masks
  found = evaluate_pixels(masks, maps)
  assert found.aupro_low == pytest.approx(metrics.aupro(masks, maps, fpr_limit=0.05))
  assert found.aupro_lowest == pytest.approx(metrics.aupro(masks, maps, fpr_limit=0.01))
  assert len({found.aupro_lowest, found.aupro_low, found.aupro}) == 3


def test_streaming_needs_less_than_twice_the_maps(rng, monkeypatch):
  """Images are made one by one and forgotten; 4% of the pixels are anomalous."""
  monkeypatch.setattr(chunks, '_CHUNK', 2**18)
  side, images = 256, 64
  mask = np.zeros((side, side), np.uint8)
  mask[:51, :51] = 1
  tracemalloc.start()
  collected = PixelScores()
  for _ in range(images):
    collected.add(mask, rng.random((side, side), np.float32))
  collected.evaluate()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2 * images * side * side * 4
