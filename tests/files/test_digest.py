import hashlib

import numpy as np
import pytest

from memkd_jax.files.digest import DIGEST, check_result, digest, images_digest, tree_digest

RESULT = {'metrics': {'I-AUC': 0.5, 'I-AP': 1}, 'counts': {'train': 3}, 'notes': ['Note.']}


def test_what_was_written_comes_back():
  assert check_result(RESULT | {DIGEST: digest(RESULT)}) == RESULT
  assert check_result(RESULT) == RESULT  # of the first version
  backwards = dict(reversed(RESULT.items()))
  assert digest(backwards) == digest(RESULT)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'metrics': {'I-AUC': 0.6, 'I-AP': 1}, DIGEST: digest(RESULT)}, 'checksum'),
    ({'metrics': {'I-AUC': 1.5}}, 'metrics'),
    ({'metrics': {'I-AUC': '0.5'}}, 'metrics'),
    ({'metrics': {'I-AUC': True}}, 'metrics'),
    ({'metrics': None}, 'metrics'),
    ({'counts': {'train': 0.5}}, 'counts'),
    ({'counts': {'train': -1}}, 'counts'),
    ({'counts': []}, 'counts'),
    ({'notes': 'Note.'}, 'notes'),
    ({'notes': [1]}, 'notes'),
  ],
)
def test_anything_else_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    check_result(RESULT | change)
  with pytest.raises(ValueError, match='no JSON object'):
    check_result([])


def test_a_digest_of_arrays_counts_all_but_their_order_and_layout(rng):
  a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
  expected = tree_digest({'a': a, 'b': b})
  assert tree_digest({'b': np.asfortranarray(b), 'a': a}) == expected
  others = [
    {'a': b, 'b': a},
    {'a': a, 'c': b},
    {'a': a, 'b': b.reshape(4, 3)},
    {'a': a, 'b': b.view(np.int32)},
    {'a': a},
  ]
  assert expected not in map(tree_digest, others)


def test_the_digest_of_arrays_is_that_of_converted_weights():
  """Files that exist carry it."""
  arrays = {'b': np.arange(6, dtype=np.float32).reshape(2, 3), 'a': np.array([7], np.int32)}
  assert (
    tree_digest(arrays) == '31cbac27429f5a9854eeb25aa9c10b964ed12d62eab5317398d487ab5235a55a'
  )


def test_a_digest_of_images_is_that_of_their_bytes_in_order(rng):
  images = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
  assert images_digest(images) == hashlib.sha256(images.tobytes()).hexdigest()
  assert images_digest(images[[0, 2, 1]]) != images_digest(images)
