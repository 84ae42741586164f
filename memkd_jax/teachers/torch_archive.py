"""Reads what torch.save has written since torch 1.6, without torch and without unpickling.

Such a file is a zip archive: `data.pkl`, a pickle that says which tensors there are, and
`data/0`, `data/1`, ..., their values. A pickle is a program. Here it is taken apart by
`pickletools`, which executes nothing, and followed by a machine that knows only what a file
of tensors needs: containers, numbers, texts, and the few names of torch that stand for a
tensor. It never looks a name up and never calls anything that the file names.
"""

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from memkd_jax.files.reading import open_regular

# Begins a file of torch before 1.6: a pickle of the number that torch wrote there.
LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'

_MAX_PICKLE = 4 * 2**20  # bytes; a resnet50's has 60,000
_MAX_DIMENSIONS = 8
# What zipfile raises of an archive that is damaged, encrypted, or packed as nobody unpacks it.
_DAMAGE = (
  zipfile.BadZipFile,
  EOFError,
  NotImplementedError,
  OSError,
  OverflowError,
  RuntimeError,
  struct.error,
)
_DTYPES = {
  'FloatStorage': np.dtype(np.float32),
  'DoubleStorage': np.dtype(np.float64),
  'HalfStorage': np.dtype(np.float16),
  'BFloat16Storage': jnp.dtype(jnp.bfloat16),
  'LongStorage': np.dtype(np.int64),
  'IntStorage': np.dtype(np.int32),
  'ShortStorage': np.dtype(np.int16),
  'CharStorage': np.dtype(np.int8),
  'ByteStorage': np.dtype(np.uint8),
  'BoolStorage': np.dtype(np.bool_),
}


def read(source: Path | str) -> Any:
  """Reads a file of torch.save as numpy arrays within dicts, lists and tuples.

  Args:
    source: the file. Nothing in it is executed.

  Returns:
    What was saved, a state dict for example. Tensors are arrays of the dtype that they were
    stored with (bfloat16 included), read-only, and may share memory as they did in torch.

  Raises:
    ValueError: the file is no such archive, is damaged, or holds more than tensors.
    OSError: it cannot be read.
  """
  with open_regular(source) as file:
    try:
      with zipfile.ZipFile(file) as archive:
        return _Machine(_Storages(archive, Path(source).stat().st_size)).run()
    except _DAMAGE as error:
      raise ValueError(str(error) or type(error).__name__) from error


class _Storages:
  """The parts of an archive; what was checked on opening cannot be more than the file."""

  def __init__(self, archive: zipfile.ZipFile, size: int):
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
      raise ValueError('it is compressed, which torch never does')
    if len({part.filename for part in parts}) < len(parts):
      raise ValueError('it has two parts of one name')
    if sum(part.file_size for part in parts) > size:
      raise ValueError('its parts are larger than the file')
    roots = [p.filename.removesuffix('data.pkl') for p in parts if _is_pickle(p.filename)]
    if len(roots) != 1:
      raise ValueError('it has no data.pkl, which torch.save writes')
    if damaged := archive.testzip():
      raise ValueError(f'the checksum of its part {damaged} is wrong')
    self._archive, self._root = archive, roots[0]
    self._bytes: dict[str, bytes] = {}
    if f'{self._root}byteorder' in archive.namelist() and self._read('byteorder') != b'little':
      raise ValueError('it is of a machine with another byte order')

  def pickle(self) -> bytes:
    """The content of data.pkl."""
    if self._archive.getinfo(f'{self._root}data.pkl').file_size > _MAX_PICKLE:
      raise ValueError(f'its data.pkl has more than {_MAX_PICKLE:,} bytes')
    return self._read('data.pkl')

  def values(self, key: str, dtype: np.dtype, number: int) -> np.ndarray:
    """The values [number] of a storage."""
    if key not in self._bytes:
      self._bytes[key] = self._read(f'data/{key}')
    content = self._bytes[key]
    if len(content) != number * dtype.itemsize:
      raise ValueError(f'its part data/{key} has another size than it should')
    return np.frombuffer(content, dtype)

  def _read(self, name: str) -> bytes:
    try:
      return self._archive.read(self._root + name)
    except KeyError as error:
      raise ValueError(f'its part {name} is missing') from error


def _is_pickle(name: str) -> bool:
  return name.endswith('/data.pkl') and name.count('/') == 1


class _Name:
  """A name of torch or of Python's library, which stands for itself."""

  def __init__(self, module: str, name: str):
    self.full = f'{module}.{name}'
    self.dtype = _DTYPES.get(name) if module == 'torch' else None
    if self.dtype is None and self.full not in _CALLS:
      raise ValueError(f'it names {self.full[:100]}, which is no part of a state dict')


class _Machine:
  """Follows the pickle; each operation costs as much as its bytes, whatever they say."""

  def __init__(self, storages: _Storages):
    self._storages = storages
    self._stack: list[Any] = []
    self._below: list[list[Any]] = []  # stacks that a mark has covered
    self._memo: dict[int, Any] = {}

  def run(self) -> Any:
    """Runs the program; returns what it leaves behind."""
    try:
      for operation, argument, _ in pickletools.genops(self._storages.pickle()):
        if operation.name == 'STOP':
          return self._stack.pop()
        if operation.name not in _OPERATIONS:
          raise ValueError(f'its data.pkl holds {operation.name}, which torch never writes')
        _OPERATIONS[operation.name](self, argument)
    except (IndexError, KeyError) as error:  # of the stack and of the memo
      raise ValueError('its data.pkl is damaged') from error
    raise ValueError('its data.pkl has no end')

  def push(self, value: Any) -> None:
    self._stack.append(value)

  def mark(self, _: Any) -> None:
    self._below.append(self._stack)
    self._stack = []

  def since_mark(self) -> list[Any]:
    """Takes what lies above the last mark, and the mark."""
    values, self._stack = self._stack, self._below.pop()
    return values

  def put(self, number: int) -> None:
    self._memo[number] = self._stack[-1]

  def get(self, number: int) -> None:
    self.push(self._memo[number])

  def name(self, argument: str) -> None:
    # pickletools joins module and name with a blank.
    self.push(_Name(*argument.split(' ', 1)) if ' ' in argument else _Name('', argument))

  def take(self, number: int) -> list[Any]:
    """Takes the topmost values, the lowest first."""
    return [self._stack.pop() for _ in range(number)][::-1]

  def extend(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not list:
      raise ValueError('its data.pkl appends to what is no list')
    target.extend(values)

  def set_items(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not dict or len(values) % 2:
      raise ValueError('its data.pkl sets items of what is no dict')
    for key, value in zip(values[::2], values[1::2], strict=True):
      # Others may take for ever to hash, as tuples of tuples do.
      if not (type(key) is str or (type(key) is int and abs(key) < 2**63)):
        raise ValueError('it has keys that are neither texts nor whole numbers')
      target[key] = value

  def build(self, _: Any) -> None:
    # An OrderedDict's attributes, such as the versions that torch keeps there.
    _, target = self._stack.pop(), self._stack[-1]
    if type(target) is not dict:
      raise ValueError('its data.pkl sets attributes of what is no dict')

  def load_storage(self, _: Any) -> None:
    match self._stack.pop():
      case ('storage', _Name(dtype=np.dtype() as dtype), str(key), _, int(number)):
        self.push(self._storages.values(key, dtype, number))
      case _:
        raise ValueError('its data.pkl refers to what is no storage')

  def reduce(self, _: Any) -> None:
    name, arguments = self.take(2)
    if not isinstance(name, _Name) or name.full not in _CALLS:
      raise ValueError('its data.pkl calls what is no function')
    self.push(_CALLS[name.full](arguments))


def _ordered_dict(arguments: Any) -> dict[Any, Any]:
  if arguments != ():
    raise ValueError('its data.pkl makes an OrderedDict of something')
  return {}


def _tensor(arguments: Any) -> np.ndarray:
  """_rebuild_tensor_v2: a view of a storage, by offset, sizes and strides in values."""
  match arguments:
    case (np.ndarray(ndim=1) as values, offset, tuple(sizes), tuple(strides), _, _):
      pass
    case _:  # those of later torch have a seventh, signs and the like that are to be applied
      raise ValueError('it holds a tensor of a kind that a state dict does not have')
  numbers = (offset, *sizes, *strides)
  if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
    raise ValueError('it holds a tensor whose sizes and strides do not belong together')
  if not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
    raise ValueError('it holds a tensor with a size, stride or offset that is none')
  if 0 in sizes:
    return np.empty(sizes, values.dtype)
  last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
  # Views that repeat their values would become larger than the file.
  if last >= len(values) or math.prod(sizes) > len(values) - offset:
    raise ValueError('it holds a tensor that is larger than its storage')
  return np.lib.stride_tricks.as_strided(
    values[offset:], sizes, [n * values.itemsize for n in strides], writeable=False
  )


def _parameter(arguments: Any) -> np.ndarray:
  match arguments:
    case (np.ndarray() as tensor, bool(), _):
      return tensor
  raise ValueError('it holds a parameter of a kind that a state dict does not have')


_CALLS: dict[str, Callable[[Any], Any]] = {
  'collections.OrderedDict': _ordered_dict,
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch._utils._rebuild_parameter': _parameter,
}

_Operation = Callable[[_Machine, Any], None]


def _pushes(make: Callable[[], Any]) -> _Operation:
  return lambda machine, _: machine.push(make())


def _push_argument(machine: _Machine, argument: Any) -> None:
  machine.push(argument)


def _tuple_of(number: int) -> _Operation:
  return lambda machine, _: machine.push(tuple(machine.take(number)))


# All that torch's pickles, of protocol 2, are made of.
_OPERATIONS: dict[str, _Operation] = {
  'PROTO': lambda machine, _: None,
  'MARK': _Machine.mark,
  'NONE': _pushes(lambda: None),
  'NEWTRUE': _pushes(lambda: True),
  'NEWFALSE': _pushes(lambda: False),
  'EMPTY_DICT': _pushes(dict),
  'EMPTY_LIST': _pushes(list),
  'EMPTY_TUPLE': _pushes(tuple),
  'TUPLE': lambda machine, _: machine.push(tuple(machine.since_mark())),
  'TUPLE1': _tuple_of(1),
  'TUPLE2': _tuple_of(2),
  'TUPLE3': _tuple_of(3),
  'APPEND': lambda machine, _: machine.extend(machine.take(1)),
  'APPENDS': lambda machine, _: machine.extend(machine.since_mark()),
  'SETITEM': lambda machine, _: machine.set_items(machine.take(2)),
  'SETITEMS': lambda machine, _: machine.set_items(machine.since_mark()),
  'BINPUT': _Machine.put,
  'LONG_BINPUT': _Machine.put,
  'BINGET': _Machine.get,
  'LONG_BINGET': _Machine.get,
  'GLOBAL': _Machine.name,
  'REDUCE': _Machine.reduce,
  'BUILD': _Machine.build,
  'BINPERSID': _Machine.load_storage,
  'BININT': _push_argument,
  'BININT1': _push_argument,
  'BININT2': _push_argument,
  'LONG1': _push_argument,
  'BINFLOAT': _push_argument,
  'BINUNICODE': _push_argument,
  'BINSTRING': _push_argument,
  'SHORT_BINSTRING': _push_argument,
}
