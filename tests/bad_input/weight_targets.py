"""Teachers, state dicts, and checkpoints."""

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from conftest import random_state_dict
from safetensors.numpy import save

from bad_input import mutations
from bad_input.outcome import check
from bad_input.target import Target, as_nobody
from memkd_jax.teachers import conversion, weights
from memkd_jax.training.checkpoint import Checkpoints

_ARCH = 'tiny_basic'


class Teachers(Target):
  """`weights.load`: the values that were written, or none."""

  def prepare(self, folder: Path) -> None:
    weights.save_teacher(folder / 'valid', _ARCH, weights.random_teacher(_ARCH), {'a': 1})

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    content = (folder / 'valid').read_bytes()
    path = folder / 'teacher.safetensors'
    mutations.put(path, content)
    self.expect(path)
    if rng.random() < 0.08:
      kind = rng.choice(mutations.STAND_INS)
      mutations.stand_in(kind, path)
      with as_nobody(kind == 'unreadable'):
        weights.load(path, _ARCH)
      check(False, f'a {kind} was read')
    path.write_bytes(damage_safetensors(rng, content))
    _, params = weights.load(path, _ARCH)
    same = jax.tree.map(np.array_equal, params, weights.load(folder / 'valid', _ARCH)[1])
    check(all(jax.tree.leaves(same)), 'other values')


def damage_safetensors(rng: random.Random, content: bytes) -> bytes:
  """Damage to bytes, to the header with its length kept right, or to the values."""
  length = struct.unpack_from('<Q', content)[0]
  header, values = content[8 : 8 + length], content[8 + length :]
  kind = rng.choice(('bytes', 'header', 'values', 'values', 'length'))
  if kind == 'header':
    header = mutations.damage_json(rng, json.loads(header))
    return struct.pack('<Q', len(header)) + header + values
  if kind == 'values':
    at = 4 * rng.randrange(len(values) // 4)
    odd = rng.choice((np.nan, np.inf, -np.inf, 1e38, rng.random()))
    number = np.float32(odd).tobytes()
    values = values[:at] + number + values[at + 4 :]
    return content[: 8 + length] + values
  if kind == 'length':
    wrong = rng.choice((0, 1, length - 1, length + 1, len(content), 2**40, 2**64 - 1))
    return struct.pack('<Q', wrong) + content[8:]
  return rng.choice(mutations.ANY_BYTES)(rng, content)


class StateDicts(Target):
  """What `tools/convert_torchvision.py` is given; needs torch.

  Archives and safetensors cannot hide a changed value from their checksums, or have
  none; what must never come of any of them is a value that is not finite.
  """

  def prepare(self, folder: Path) -> None:
    import torch

    arrays = random_state_dict(_ARCH, np.random.default_rng(0))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(state, folder / 'new.pth')
    torch.save({'state_dict': state, 'epoch': 3}, folder / 'nested.pth')
    torch.save({n: t.half() for n, t in state.items()}, folder / 'half.pth')
    torch.save(state, folder / 'old.pth', _use_new_zipfile_serialization=False)
    (folder / 'plain.safetensors').write_bytes(save(arrays))
    conversion.convert(folder / 'new.pth', _ARCH, folder / 'valid.safetensors')

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    sources = ('new.pth', 'new.pth', 'nested.pth', 'half.pth', 'old.pth', 'plain.safetensors')
    name = rng.choice(sources)
    content = (folder / name).read_bytes()
    path, out = folder / f'source{Path(name).suffix}', folder / 'out.safetensors'
    canary = folder / 'canary'
    mutations.put(path, content)
    out.unlink(missing_ok=True)
    self.expect(path)
    kind = rng.choice(('bytes',) * 6 + ('code', 'code', 'stand_in', 'shape', 'values', 'zip'))
    if kind == 'stand_in':
      kind = rng.choice(mutations.STAND_INS)
      mutations.stand_in(kind, path)
      with as_nobody(kind == 'unreadable'):
        conversion.convert(path, _ARCH, out)
      check(False, f'a {kind} was read')
    if kind == 'code':
      path.write_bytes(_hostile(rng, canary))
    elif kind in ('shape', 'values'):
      path = folder / 'source.pth'
      mutations.put(path, b'')
      self.expect(path)
      _write_odd_state(rng, kind, path)
    elif kind == 'zip' and content[:2] == b'PK':
      path.write_bytes(_repack(rng, content))
    elif name == 'plain.safetensors':
      path.write_bytes(damage_safetensors(rng, content))
    else:
      path.write_bytes(rng.choice(mutations.ANY_BYTES)(rng, content))
    try:
      conversion.convert(path, _ARCH, out)
    finally:
      check(not canary.exists(), 'it was executed')
    _, params = weights.load(out, _ARCH)
    check(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)), 'not finite')
    if name in ('new.pth', 'nested.pth') and kind == 'bytes':
      valid = weights.load(folder / 'valid.safetensors')[1]
      same = jax.tree.map(np.array_equal, params, valid)
      check(all(jax.tree.leaves(same)), 'other values')


class _Command:
  """Pickles as a call."""

  def __init__(self, function: Any, *arguments: Any):
    self._call = function, arguments

  def __reduce__(self) -> Any:
    return self._call


def _hostile(rng: random.Random, canary: Path) -> bytes:
  """Pickles that would run something, plain and within torch's containers."""
  import torch

  payload = rng.choice(
    (
      _Command(os.system, f'touch {canary}'),
      _Command(eval, f'open({str(canary)!r}, "w")'),
      _Command(exec, f'open({str(canary)!r}, "w")'),
      _Command(open, str(canary), 'w'),
      _Command(bytearray, 2**40),
      _Command(torch.nn.Linear, 2, 2),
    )
  )
  state = rng.choice((payload, {'conv1.weight': payload}, {'state_dict': payload}))
  stream = io.BytesIO()
  if rng.random() < 0.3:
    return pickle.dumps(state, protocol=rng.choice((0, 2, 4)))
  torch.save(state, stream, _use_new_zipfile_serialization=rng.random() < 0.7)
  return stream.getvalue()


def _write_odd_state(rng: random.Random, kind: str, path: Path) -> None:
  """Tensors of a shape or of values that no teacher has."""
  import torch

  state: dict[Any, Any] = {
    name: torch.from_numpy(array)
    for name, array in random_state_dict(_ARCH, np.random.default_rng(0)).items()
  }
  name = rng.choice([n for n in state if n.endswith(('weight', 'bias', 'mean', 'var'))][:40])
  if kind == 'values':
    odd = rng.choice((float('nan'), float('inf'), -1e30, 3e38))
    state[name].view(-1)[rng.randrange(state[name].numel())] = odd
  else:
    one = torch.ones(1)
    state[name] = rng.choice(
      (
        one.expand(10**6, 10**6),
        one.half().expand(10**12),
        torch.zeros(0),
        torch.zeros(()),
        torch.zeros(3, 0, 2),
        torch.eye(3).to_sparse(),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(4, dtype=torch.int64),
        torch.empty(4, device='meta'),
        torch.ones(4).to(torch.float8_e4m3fn),
        [1, 2],
        None,
        'text',
        {'a': one},
      )
    )
    if rng.random() < 0.1:
      state[rng.choice((3, None, ('a',)))] = one
  torch.save(state, path)


def _repack(rng: random.Random, content: bytes) -> bytes:
  """An archive with other parts: compressed, doubled, left out, or named to climb."""
  kind = rng.choice(('deflate', 'drop', 'rename', 'twice', 'bomb'))
  stream = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(stream, 'w') as target:
    names = source.namelist()
    chosen = rng.choice(names)
    for name in names:
      data = source.read(name)
      compression = zipfile.ZIP_DEFLATED if kind in ('deflate', 'bomb') else zipfile.ZIP_STORED
      if name == chosen:
        if kind == 'drop':
          continue
        if kind == 'bomb':
          data = bytes(200 * 2**20)
        if kind == 'rename':
          name = '../../' + name
      target.writestr(name, data, compression)
    if kind == 'twice':
      target.writestr(chosen + '2', b'x')
  return stream.getvalue()


class CheckpointFolders(Target):
  """`Checkpoints.restore`: the state that was saved, or a sentence."""

  memory = None  # orbax has many threads

  def prepare(self, folder: Path) -> None:
    with Checkpoints(folder / 'valid') as checkpoints:
      for step in (4, 8):
        checkpoints.save(step, self._state(step), {'train_images': 10 + step})

  @staticmethod
  def _state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
      'step': np.int32(step),
      'params': {
        'keys': rng.normal(size=(50, 64)).astype(np.float32),
        'values': rng.normal(size=(7,)).astype(np.float32),
      },
    }

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    home = folder / str(number)
    shutil.copytree(folder / 'valid', home)
    self.expect(home)
    files = sorted(p for p in home.rglob('*') if p.is_file())
    newest = [p for p in files if '/8/' in str(p)]
    chosen = [
      rng.choice(newest if rng.random() < 0.8 else files)
      for _ in range(rng.choice((1, 1, 1, 2, 3)))
    ]
    for path in files if rng.random() < 0.2 else chosen:
      if path.is_file() and not path.is_symlink():
        self._damage(rng, path)
    with Checkpoints(home) as checkpoints:
      step = checkpoints.latest_step()
      check(step in (None, 4, 8), f'step {step}')
      if step is None:
        return
      metadata = checkpoints.read_metadata()
      state = checkpoints.restore(self._state(0))
    check(metadata == {'train_images': 10 + step}, f'metadata {metadata}')
    same = jax.tree.map(np.array_equal, state, self._state(step))
    check(all(jax.tree.leaves(same)), f'other values at step {step}')

  @staticmethod
  def _damage(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    if not content or rng.random() < 0.3:
      mutations.stand_in(rng.choice(('missing', 'missing', 'folder', 'loop', 'dangling')), path)
    else:
      path.write_bytes(rng.choice(mutations.ANY_BYTES)(rng, content))
