import jax
import numpy as np
import pytest

from memkd_jax.errors import UserError
from memkd_jax.runtime.devices import AXIS, Devices, explicit_transfers


def test_four_virtual_devices_are_there():
  assert len(Devices()) == 4


@pytest.mark.parametrize('number', [1, 2, 4])
def test_padding_is_undone(number, rng):
  devices = Devices(jax.devices()[:number])
  images = rng.integers(0, 256, (5, 3, 3), dtype=np.uint8)
  padded = devices.pad_shard(images, 8)
  assert padded.shape == (number, 8 // number, 3, 3)
  doubled = devices.map(lambda x: x * 2)(padded)
  np.testing.assert_array_equal(devices.unshard(doubled, 5), images * 2)


def test_replicas_come_back():
  devices = Devices()
  tree = {'a': np.arange(3.0, dtype=np.float32), 'b': np.int32(4)}
  replicated = devices.replicate(tree)
  assert replicated['a'].shape == (4, 3)
  fetched = devices.unreplicate(replicated)
  np.testing.assert_array_equal(fetched['a'], tree['a'])
  assert fetched['b'] == 4


def test_collectives_go_over_all_devices():
  devices = Devices()
  mean = devices.map(lambda x: jax.lax.pmean(x, AXIS))(np.arange(4.0).reshape(4, 1))
  np.testing.assert_array_equal(mean, np.full((4, 1), 1.5))


def test_a_batch_that_the_devices_do_not_divide_is_refused():
  devices = Devices()
  devices.check_divide(8, 'train.batch_size')
  assert [devices.round_up(n) for n in (1, 4, 5)] == [4, 4, 8]
  with pytest.raises(UserError, match=r'train\.batch_size=6 .* 4 devices.*batch_size=4 or 8\.'):
    devices.check_divide(6, 'train.batch_size')
  with pytest.raises(UserError, match=r'batch_size=3 .* 4 devices.*batch_size=4\.'):
    devices.check_divide(3, 'train.batch_size')


@pytest.mark.parametrize('number', [1, 4])
def test_what_is_asked_for_moves_where_nothing_else_may(number):
  devices = Devices(jax.devices()[:number])
  double = devices.map(lambda tree: jax.tree.map(lambda x: 2 * x, tree))
  rows = np.arange(8.0, dtype=np.float32).reshape(number, -1)
  with explicit_transfers():
    with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed host-to-device'):
      double(rows)
    there = devices.put({'rows': rows, 'none': None})
    found = double(there)
    assert devices.put(found)['rows'] is found['rows']  # it is there already
    np.testing.assert_array_equal(devices.unshard(found['rows'], 8), 2 * np.arange(8.0))
    copies = double(devices.replicate(np.float32(3)))
    assert devices.unreplicate(copies) == 6


def test_the_memory_of_devices_is_the_most_that_one_of_them_has_taken():
  devices = Devices()
  assert devices.memory_use() == {}  # a CPU does not tell

  class Told:
    def __init__(self, **statistics):
      self.memory_stats = lambda: statistics

  devices._mine = [Told(bytes_in_use=3, bytes_limit=9), Told(bytes_in_use=5, bytes_limit=9)]
  assert devices.memory_use() == {'bytes_in_use': 5}
