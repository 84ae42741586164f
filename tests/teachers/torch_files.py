"""Writes files as torch.save does, without torch: the zip format and its pickle."""

import io
import pickle
import zipfile
from collections import OrderedDict

STORAGES = {
  'float32': 'FloatStorage',
  'float64': 'DoubleStorage',
  'float16': 'HalfStorage',
  'bfloat16': 'BFloat16Storage',
  'int64': 'LongStorage',
  'int32': 'IntStorage',
  'int16': 'ShortStorage',
  'int8': 'CharStorage',
  'uint8': 'ByteStorage',
  'bool': 'BoolStorage',
}


class Storage:
  """Values that tensors are views of."""

  def __init__(self, values, key, number=None):
    self.values, self.key = values, key
    self.number = values.size if number is None else number  # as the pickle says


class Call:
  """Pickles as a call of a name, which need not exist."""

  def __init__(self, name, *arguments, state=None):
    self.call = (stub(name), arguments, *([] if state is None else [state]))

  def __reduce__(self):
    return self.call


def stub(name):
  """A class that pickles as the name 'module.name', also where there is no such module."""
  module, _, last = name.rpartition('.')
  return type(last, (), {'__module__': module, '__qualname__': last, 'stub': True})


def tensor(values, key='0', *, offset=0, sizes=None, strides=None, number=None, extra=()):
  """A tensor of numpy values, or another view of them."""
  sizes = values.shape if sizes is None else sizes
  if strides is None:
    strides = tuple(n // values.itemsize for n in values.strides)
  storage = Storage(values, key, number)
  call = 'torch._utils._rebuild_tensor_v2'
  return Call(call, storage, offset, sizes, strides, False, OrderedDict(), *extra)


def parameter(*args, **kwargs):
  """A tensor as a parameter."""
  return Call('torch._utils._rebuild_parameter', tensor(*args, **kwargs), True, OrderedDict())


class _Pickler(pickle._Pickler):
  """Python's own, since it asks `save_global`, which writes a stub unseen."""

  dispatch = pickle._Pickler.dispatch.copy()

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.storages = {}

  def persistent_id(self, value):
    if not isinstance(value, Storage):
      return None
    self.storages[value.key] = value.values
    kind = stub(f'torch.{STORAGES[value.values.dtype.name]}')
    return ('storage', kind, value.key, 'cpu', value.number)

  def save_global(self, obj, name=None):
    if not getattr(obj, 'stub', False):
      return super().save_global(obj, name)
    self.write(f'c{obj.__module__}\n{obj.__qualname__}\n'.encode())
    self.memoize(obj)

  dispatch[type] = save_global


def dumps(value):
  """(the pickle, the values of its storages by key)."""
  stream = io.BytesIO()
  pickler = _Pickler(stream, protocol=2)
  pickler.dump(value)
  return stream.getvalue(), pickler.storages


def write(path, value, **parts):
  """Saves a value as torch does."""
  content, storages = dumps(value)
  write_parts(path, content, {k: v.tobytes() for k, v in storages.items()}, **parts)


def write_parts(path, content, storages=None, *, root='archive', compression=0, **others):
  """Writes an archive with any pickle; `others` are further parts of it."""
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr(f'{root}/data.pkl', content)
    for name, data in others.items():
      archive.writestr(f'{root}/{name}', data)
    for key, data in (storages or {}).items():
      archive.writestr(f'{root}/data/{key}', data)
    archive.writestr(f'{root}/version', b'3\n')


def tensors(state):
  """The state dict as torch has it: an ordered dict with attributes, a storage for each."""
  found = OrderedDict((name, tensor(x, str(i))) for i, (name, x) in enumerate(state.items()))
  found._metadata = OrderedDict({'': {'version': 1}})
  return found
