import jax
import numpy as np
import pytest

from memkd_jax.checkpoint import Checkpoints
from memkd_jax.errors import UserError


@pytest.fixture
def state(rng):
  return {
    'step': np.int32(3),
    'params': {'keys': rng.normal(size=(4, 5)).astype(np.float32)},
    'opt_state': (np.zeros(2, np.float64), ()),
  }


def test_the_newest_comes_back_bit_for_bit(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    checkpoints.save(1, state, {'images': 3})
    newer = jax.tree.map(lambda x: x + 1, state)
    checkpoints.save(2, newer, {'images': 4})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 2
    assert checkpoints.read_metadata() == {'images': 4}
    restored = checkpoints.restore(state)
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(newer), strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_a_checkpoint_of_another_model_is_named(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {'images': 3})
  other = {**state, 'params': {'values': np.zeros((4, 5), np.float32)}}
  misshapen = {**state, 'params': {'keys': np.zeros((4, 6), np.float32)}}
  with Checkpoints(tmp_path) as checkpoints:
    for like in (other, misshapen):
      with pytest.raises(UserError, match=r'The checkpoint .*1 cannot be restored'):
        checkpoints.restore(like)


def test_a_damaged_checkpoint_is_named(tmp_path, state):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {'images': 3})
  for path in (tmp_path / '1').rglob('*'):
    if path.is_file() and path.stat().st_size:
      path.write_bytes(b'broken')
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(UserError, match='cannot be restored'),
  ):
    checkpoints.restore(state)
