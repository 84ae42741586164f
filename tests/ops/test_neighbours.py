import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from memkd_jax.deploy.onnx import _check_operators
from memkd_jax.ops.neighbours import k_nearest, nearest_distance, squared_distances


@pytest.mark.parametrize('items', [1, 5, 2048, 5000])
def test_distances_are_those_of_scikit_learn(rng, items):
  queries = rng.normal(size=(300, 12)).astype(np.float32)
  memory = rng.normal(size=(items, 12)).astype(np.float32)
  expected, _ = NearestNeighbors(n_neighbors=1).fit(memory).kneighbors(queries)
  found = jax.jit(nearest_distance)(queries, memory)
  np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4)


@pytest.mark.parametrize('items', [2, 2048, 5000])
def test_distances_by_bfloat16_are_those_of_rounded_rows(rng, items):
  queries, half = (
    (rng.normal(size=(n, 12)) * 512).round().astype(np.float32) / 512 for n in (300, items // 2)
  )
  memory = np.concatenate([half, -half])  # whose mean is 0 exactly
  one, other = (np.asarray(x.astype(jnp.bfloat16), np.float32) for x in (queries, memory))
  expected, _ = NearestNeighbors(n_neighbors=1).fit(other).kneighbors(one)
  found = jax.jit(nearest_distance, static_argnums=2)(queries, memory, 'bfloat16')
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4)
  # Rounding moves each of the two rows by at most 2^-9 of its length.
  exact = np.asarray(nearest_distance(queries, memory))
  lengths = [np.linalg.norm(x, axis=1).max() for x in (queries, memory)]
  assert 0 < np.abs(found - exact).max() < sum(lengths) / 2**9


def test_a_query_in_the_memory_is_at_no_distance(rng):
  rows = 100 + rng.normal(size=(50, 12)).astype(np.float32)
  assert np.all(np.asarray(nearest_distance(rows, rows)) < 0.01)


@pytest.mark.parametrize(('items', 'number'), [(1, 1), (5, 5), (2048, 3), (5000, 9), (2050, 4)])
def test_the_nearest_are_those_of_scikit_learn(rng, items, number):
  queries = rng.normal(size=(200, 12)).astype(np.float32)
  memory = rng.normal(size=(items, 12)).astype(np.float32)
  expected, rows = NearestNeighbors(n_neighbors=number).fit(memory).kneighbors(queries)
  distances, indices = jax.jit(k_nearest, static_argnums=2)(queries, memory, number)
  np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)
  assert np.mean(np.asarray(indices) == rows) > 0.999  # ties of float32


def test_squared_distances_are_those_of_all_pairs(rng):
  one, other = rng.normal(size=(30, 6)), rng.normal(size=(20, 6))
  expected = pairwise_distances(one, other) ** 2
  found = squared_distances(one.astype(np.float32), other.astype(np.float32))
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('number', [1, 4])
def test_all_runtimes_find_the_nearest_of_more_rows_than_a_chunk(rng, number):
  to_onnx = pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'").to_onnx
  runtime = pytest.importorskip('onnxruntime')
  queries = rng.normal(size=(7, 6)).astype(np.float32)
  memory = rng.normal(size=(5000, 6)).astype(np.float32)

  def search(queries):
    return nearest_distance(queries, memory), *k_nearest(queries, memory, number)

  model = to_onnx(search, [jax.ShapeDtypeStruct(('B', 6), np.float32)], opset=21)
  _check_operators(model.graph.node)
  session = runtime.InferenceSession(model.SerializeToString())
  found = session.run(None, {session.get_inputs()[0].name: queries})
  for one, other in zip(found, search(queries), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
