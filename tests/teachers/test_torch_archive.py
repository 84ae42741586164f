"""What torch.save writes is read as it is, and nothing that is in it is ever executed."""

import os
import pickle
import resource
import struct
import sys
import time
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import torch_files as files
from safetensors.numpy import load_file

from memkd_jax.teachers import torch_archive

ONES = np.ones(8, np.float32)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'file.pth'


def read(path, value, **parts):
  files.write(path, value, **parts)
  return torch_archive.read(path)


@pytest.mark.parametrize('name', [*files.STORAGES])
def test_every_dtype_comes_back_bit_for_bit(path, rng, name):
  values = rng.integers(0, 2, (3, 4)).astype(jnp.dtype(name))
  (found,) = read(path, [files.tensor(values)])
  assert (found.dtype, found.shape) == (values.dtype, values.shape)
  assert found.tobytes() == values.tobytes()
  assert not found.flags.writeable


def test_a_state_dict_with_attributes_parameters_and_a_checkpoint_around_it(path, rng):
  state = {f'w{i}': rng.normal(size=(i, 2)).astype(np.float32) for i in range(1, 4)}
  model = files.tensors(state)
  model['p'] = files.parameter(ONES, 'p')
  found = read(path, {'state_dict': model, 'epoch': 2**40, 'rate': 0.1, 'on': True, 'n': None})
  assert (found['epoch'], found['rate'], found['on'], found['n']) == (2**40, 0.1, True, None)
  assert list(found['state_dict']) == ['w1', 'w2', 'w3', 'p']
  for name, values in (state | {'p': ONES}).items():
    np.testing.assert_array_equal(found['state_dict'][name], values)


def test_views_share_their_storage_and_keep_offset_and_strides(path, rng):
  values = rng.normal(size=(4, 6)).astype(np.float32)
  flat = values.reshape(-1)
  storage = files.tensor(flat)
  views = [
    storage,
    files.tensor(flat, sizes=(6, 4), strides=(1, 6)),
    files.tensor(flat, sizes=(2, 3), strides=(12, 2), offset=5),
    files.tensor(flat, sizes=(), strides=(), offset=23),
    files.tensor(flat, sizes=(3, 0), strides=(1, 1)),
    files.tensor(flat, sizes=(1, 24), strides=(2**40, 1)),
  ]
  whole, turned, part, last, empty, row = read(path, views)
  np.testing.assert_array_equal(whole, flat)
  np.testing.assert_array_equal(turned, values.T)
  np.testing.assert_array_equal(part, [[flat[5], flat[7], flat[9]], [*flat[17:23:2]]])
  assert last.shape == () and last == flat[23]
  assert (empty.shape, row.shape) == ((3, 0), (1, 24))
  assert np.shares_memory(whole, turned)


@pytest.mark.parametrize(
  'view',
  [
    {'sizes': (9,), 'strides': (1,)},
    {'sizes': (8,), 'strides': (1,), 'offset': 1},
    {'sizes': (2,), 'strides': (8,)},
    {'sizes': (2,), 'strides': (2**62,)},
    {'sizes': (2,), 'strides': (-1,), 'offset': 4},
    {'sizes': (-1,), 'strides': (1,)},
    {'sizes': (1,), 'strides': (1,), 'offset': -1},
    {'sizes': (1,), 'strides': (1,), 'offset': 8},
    {'sizes': (10**6, 10**6), 'strides': (0, 0)},
    {'sizes': (3, 3), 'strides': (1, 1)},
    {'sizes': (2,), 'strides': (1, 1)},
    {'sizes': (1,) * 9, 'strides': (1,) * 9},
    {'sizes': (2.0,), 'strides': (1,)},
    {'sizes': [2], 'strides': (1,)},
    {'sizes': (True,), 'strides': (1,)},
    {'sizes': ('2',), 'strides': (1,)},
    {'sizes': (2**70,), 'strides': (1,)},
    {'sizes': (2**70, 0), 'strides': (1, 1)},
    {'sizes': (2,), 'strides': (1,), 'number': 9},
    {'sizes': (2,), 'strides': (1,), 'number': 2**60},
    {'sizes': (2,), 'strides': (1,), 'number': -1},
    {'sizes': (2,), 'strides': (1,), 'extra': ({'conj': True},)},
  ],
  ids=str,
)
def test_no_view_reaches_beyond_its_storage(path, view):
  with pytest.raises(ValueError, match='it'):
    read(path, [files.tensor(ONES, **view)])


def hostile(tmp_path):
  """Pickles that would run something where they are unpickled."""
  owned = str(tmp_path / 'owned')
  system = files.Call(f'{os.system.__module__}.system', f'touch {owned}')
  yield system
  yield files.Call('builtins.eval', f'open({owned!r}, "w")')
  yield files.Call('builtins.open', owned, 'w')
  yield files.Call('collections.OrderedDict', [[system, system]])
  yield files.Call('torch._utils._rebuild_parameter', system, True, system)
  yield files.Call('torch._utils._rebuild_tensor_v2', system, 0, (1,), (1,), False, system)
  yield files.Call('builtins.getattr', files.stub('os.path'), 'system')
  yield files.Call('torch.FloatStorage', 2**40)
  yield files.Call('torch._utils._rebuild_tensor_v2')
  yield files.Call('torch.nn.modules.linear.Linear', 2, 2)
  yield files.Call('memkd_jax.cli.start', print)
  yield files.Call('collections.OrderedDict', state=system)
  yield files.Call('collections.OrderedDict.fromkeys', 'ab')
  yield {'state_dict': {'conv1.weight': system}}


# What Python tells of itself, as (event, arguments); a hook cannot be taken away again.
EVENTS = []
LISTENING = []
sys.addaudithook(lambda *event: EVENTS.append(event) if LISTENING else None)


def test_hostile_pickles_execute_nothing(tmp_path, path):
  for attack in hostile(tmp_path):
    files.write(path, attack)
    EVENTS.clear()
    LISTENING.append(True)
    with pytest.raises(ValueError, match=r'names|Ordered|parameter|tensor|calls'):
      torch_archive.read(path)
    LISTENING.clear()
    assert {name for name, _ in EVENTS} == {'open'}
    assert {args[0] for _, args in EVENTS if type(args[0]) is not int} == {str(path)}
  assert not (tmp_path / 'owned').exists()


def test_the_hook_would_notice_an_unpickler():
  EVENTS.clear()
  LISTENING.append(True)
  pickle.loads(b'cos\ngetcwd\n.')
  LISTENING.clear()
  assert ('pickle.find_class', ('os', 'getcwd')) in EVENTS


def test_objects_of_python_are_refused_whatever_the_protocol(path):
  for value in (Restored(), {1, 2}, b'bytes', 1j, print, os.system, object()):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
      try:
        content = pickle.dumps({'a': value}, protocol)
      except (TypeError, pickle.PicklingError):
        continue
      files.write_parts(path, content)
      with pytest.raises(ValueError, match=r'it names|its data\.pkl'):
        torch_archive.read(path)
  assert Restored.states == []


class Restored:
  """Tells when it is unpickled."""

  states = []  # noqa: RUF012

  def __init__(self):
    self.value = 1

  def __setstate__(self, state):
    self.states.append(state)


def test_attributes_are_set_on_nothing(path):
  found = read(path, files.Call('collections.OrderedDict', state={'__class__': 3, 'get': 4}))
  assert type(found) is dict and found == {} and callable(found.get)
  array = files.tensor(ONES)
  array.call += ((1, (2**40,), 'float32', False, 'x'),)  # of numpy's own __setstate__
  with pytest.raises(ValueError, match='sets attributes of what is no dict'):
    read(path, array)


# Programs that no Pickler writes, each to be refused.
NESTED = b'\x80\x02})' + b'\x85' * 200_000 + b'K\x01s.'
DOUBLED = b'\x80\x02}' + b')q\x00' + b'h\x00h\x00\x86q\x00' * 60 + b'K\x01s.'
PROGRAMS = {
  'empty': b'',
  'no end': b'\x80\x02}',
  'nothing to give': b'\x80\x02.',
  'no mark': b'\x80\x02}K\x01K\x01u.',
  'no memo': b'\x80\x02h\x05.',
  'not a pickle': b'\xff' * 99,
  'a persistent id as text': b'P0\n.',
  'a storage that is none': b'\x80\x02K\x01Q.',
  'a key of nested tuples': NESTED,
  'a key of doubled tuples': DOUBLED,
  'a huge text': b'\x80\x02X\xff\xff\xff\xff.',
  'huge bytes': b'\x80\x04\x8e' + struct.pack('<Q', 2**62) + b'.',
  'a huge whole number': b'\x80\x02\x8b\xff\xff\xff\x7f.',
  'a frame': b'\x80\x04\x95' + struct.pack('<Q', 2**62) + b'.',
  'a call of a number': b'\x80\x02K\x01)R.',
  'an object by class': b'\x80\x02ccollections\nOrderedDict\n)\x81.',
  'an extension': b'\x80\x02\x82\x01.',
  'an instance': b'(iposix\nsystem\n.',
  'a name of five dots': b'\x80\x02c.....\n.....\n.',
  'a name of nothing': b'\x80\x02c\n\n.',
  'items of a list': b'\x80\x02]K\x01K\x01s.',
  'half an item': b'\x80\x02}(K\x01u.',
  'appends to a dict': b'\x80\x02}K\x01a.',
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_programs_that_are_none(path, name):
  files.write_parts(path, PROGRAMS[name])
  began = time.monotonic()
  with pytest.raises(ValueError, match=r'it|data\.pkl|pickle|expected|opcode|enough'):
    torch_archive.read(path)
  assert time.monotonic() - began < 10


def test_a_place_of_the_memo_may_have_any_number(path):
  files.write_parts(path, b'\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7f.')
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert torch_archive.read(path) == {}
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB


def test_what_holds_itself_ends_as_well(path):
  files.write_parts(path, b'\x80\x02}q\x00X\x04\x00\x00\x00selfh\x00s.')
  found = torch_archive.read(path)
  assert found['self'] is found


def test_a_pickle_is_of_bounded_size(path):
  files.write_parts(path, b'\x80\x02' + b'N' * 2**23 + b'.')
  with pytest.raises(ValueError, match='more than 4,194,304 bytes'):
    torch_archive.read(path)


@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused(path, compression):
  with pytest.raises(ValueError, match='it is compressed'):
    read(path, [files.tensor(np.zeros(10**6, np.float32))], compression=compression)


def test_a_wrong_byte_order_a_missing_and_a_doubled_part(path):
  value = [files.tensor(ONES)]
  np.testing.assert_array_equal(read(path, value, byteorder=b'little')[0], ONES)
  with pytest.raises(ValueError, match='another byte order'):
    read(path, value, byteorder=b'big')
  content, _ = files.dumps(value)
  files.write_parts(path, content)
  with pytest.raises(ValueError, match='its part data/0 is missing'):
    torch_archive.read(path)
  files.write_parts(path, content, {'0': ONES.tobytes()[:-1]})
  with pytest.raises(ValueError, match='another size'):
    torch_archive.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('data.pkl', content)
  with pytest.raises(ValueError, match=r'no data\.pkl'):
    torch_archive.read(path)
  files.write(path, value)
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate'):
    archive.writestr('archive/data/0', ONES.tobytes())
  with pytest.raises(ValueError, match='two parts of one name'):
    torch_archive.read(path)


def test_a_storage_outside_the_archive_is_not_reached(path, tmp_path):
  (tmp_path / 'secret').write_bytes(ONES.tobytes())
  for key in ('../../secret', str(tmp_path / 'secret'), '../version'):
    content, _ = files.dumps([files.tensor(ONES, key)])
    files.write_parts(path, content)
    with pytest.raises(ValueError, match='is missing'):
      torch_archive.read(path)


def test_parts_that_lie_upon_each_other(path):
  """An entry of the directory is repeated under other names: small file, many values."""
  values = np.zeros(10**5, np.float32)
  names = [f'{i:04}' for i in range(100)]
  content, _ = files.dumps([files.tensor(values, name) for name in names])
  files.write_parts(path, content, {names[0]: values.tobytes()})
  data = path.read_bytes()
  with zipfile.ZipFile(path) as archive:
    start = archive.start_dir
  at = data.index(b'PK\x01\x02', data.index(b'data/0000', start) - 60)
  end = data.index(b'PK\x01\x02', at + 4)
  entry = data[at:end]
  copies = b''.join(entry.replace(b'data/0000', f'data/{n}'.encode()) for n in names[1:])
  tail = bytearray(data[data.rindex(b'PK\x05\x06') :])
  count = struct.unpack_from('<H', tail, 10)[0] + len(names) - 1
  size = data.rindex(b'PK\x05\x06') - start + len(copies)
  struct.pack_into('<HHI', tail, 8, count, count, size)
  path.write_bytes(data[:end] + copies + data[end : data.rindex(b'PK\x05\x06')] + tail)
  with zipfile.ZipFile(path) as archive:
    assert len(archive.namelist()) == 102
  with pytest.raises(ValueError, match='larger than the file'):
    torch_archive.read(path)


def test_a_damaged_file_is_refused_wherever_it_is_damaged(path, rng):
  state = files.tensors({f'w{i}': rng.normal(size=40).astype(np.float32) for i in range(3)})
  expected = read(path, state)
  content = path.read_bytes()
  for size in (0, 1, 4, 30, len(content) // 2, len(content) - 1):
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r'\w'):
      torch_archive.read(path)
  for _ in range(300):
    damaged = bytearray(content)
    damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      found = torch_archive.read(path)
    except ValueError:
      continue
    for name, values in expected.items():
      np.testing.assert_array_equal(found[name], values)


def test_the_real_weights_are_those_of_safetensors(shared):
  source = shared / 'weights' / 'resnet18_imagenet_stages123'
  expected = load_file(source.with_suffix('.safetensors'))
  found = torch_archive.read(source.with_suffix('.pth'))
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
    assert found[name].tobytes() == values.tobytes()
