import pytest

from memkd_jax.errors import UserError
from memkd_jax.runtime import topology


@pytest.mark.parametrize(
  ('name', 'spelled', 'chips'),
  [
    ('v5e:2x4', 'v5e:2x4', 8),
    ('v5e-8', 'v5e:2x4', 8),
    ('v5litepod-16', 'v5e:4x4', 16),
    ('v6e-1', 'v6e:1x1', 1),
    ('v4:2x2x2', 'v4:2x2x2', 8),
  ],
)
def test_names_of_slices(name, spelled, chips):
  assert topology.spelled(name) == spelled
  assert topology.chips(spelled) == chips


@pytest.mark.parametrize('name', ['v5e', 'v5e-7', 'v4-8', 'v5e:', 'h100', '2x4'])
def test_what_is_no_topology_is_named_with_the_remedy(name):
  with pytest.raises(
    UserError, match=rf'--compile-only={name}: .* v5e:2x4 for example, or v5e-N'
  ):
    topology.spelled(name)


@pytest.mark.skipif(not topology.has_compiler(), reason='needs libtpu, the compiler for TPUs')
def test_all_devices_are_of_one_process():
  devices = topology.devices_of('v5e:2x4')
  assert len(devices) == 8
  assert {device.process_index for device in devices} == {0}
  with pytest.raises(UserError, match='libtpu cannot describe it'):
    topology.devices_of('v5e:3x97')
