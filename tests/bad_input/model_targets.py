"""The two files of a trained model."""

import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from bad_input import mutations
from bad_input.outcome import check
from bad_input.text_targets import TextFile
from bad_input.weight_targets import damage_safetensors
from memkd_jax import methods
from memkd_jax.files import model
from memkd_jax.files.digest import DIGEST, digest, tree_digest
from memkd_jax.scoring.calibration import Calibration
from memkd_jax.workdir import TrainedModel, Workdir, read_model_folder

_CALIBRATION = Calibration(np.arange(20.0), np.linspace(0, 1, 51))
_ARRAYS = {
  'memory_m1/keys': np.linspace(-1, 1, 300, dtype=np.float32).reshape(50, 6),
  'student/conv/kernel': np.arange(400, dtype=np.float32).reshape(4, 100),
}


class ModelFile(TextFile):
  """One of the files of a model: what was written, or a sentence."""

  file_name = model.FACTS

  def prepare(self, folder: Path) -> None:
    params = {
      'memory_m1': {'keys': _ARRAYS['memory_m1/keys']},
      'student': {'conv': {'kernel': _ARRAYS['student/conv/kernel']}},
    }
    config = methods.resolve(methods.get_config())
    diagnosis = {'m1': {'usage': [0.5, 0.5], 'entropy': 1.0}}
    workdir = Workdir(folder)
    workdir.write_model(
      TrainedModel('bolt', 0, config, 'ab' * 32, params, 9, 'cd' * 32, diagnosis, _CALIBRATION)
    )
    (folder / 'valid').write_bytes(self._file(folder).read_bytes())

  def _file(self, folder: Path) -> Path:
    return self._home(folder) / self.file_name

  def _home(self, folder: Path) -> Path:
    return Workdir(folder).category('bolt', 0)

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return self._file(folder), (folder / 'valid').read_bytes()

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(self._home(folder))
    found = read_model_folder(self._home(folder))
    check(isinstance(found.name, str) and isinstance(found.seed, int), 'no name, no seed')
    if b'"hostile"' in damaged:
      return
    check((found.name, found.seed, found.train_images) == ('bolt', 0, 9), 'another model')
    valid = methods.resolve(methods.get_config()).to_dict()
    check(found.config.to_dict() == valid, 'another config')
    flat = model.flatten_dict(found.params, sep='/')
    check(flat.keys() == _ARRAYS.keys(), f'{flat.keys()}')
    for name, array in _ARRAYS.items():
      check(np.array_equal(flat[name], array), f'other values of {name}')


class ModelFacts(ModelFile):
  """model.json, damaged by chance, or on purpose with a checksum that is right."""

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.4:
      return super().damage(rng, content)
    damaged = mutations.damage_json(rng, json.loads(content))
    try:
      facts = json.loads(damaged)
    except (ValueError, RecursionError):
      return damaged
    if rng.random() < 0.5 or not isinstance(facts, dict):
      return damaged
    facts['hostile'] = True
    return json.dumps(facts | {DIGEST: digest(facts)}).encode()


class Thresholds(ModelFile):
  """The calibration in model.json, which the report reads alone."""

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
      return super().damage(rng, content)
    document = json.loads(content)
    if rng.random() < 0.5:
      return mutations.damage_json(rng, document)
    damaged = mutations.damage_json(rng, document['calibration'])
    return (
      json.dumps(document)
      .encode()
      .replace(json.dumps(document['calibration']).encode(), damaged)
    )

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(self._home(folder))
    found = Workdir(folder).read_calibration('bolt', 0)
    if found is None:
      check(not self._file(folder).is_file(), 'it is there')
      return
    for name in ('scores', 'pixels'):
      expected = getattr(_CALIBRATION, name)
      check(np.array_equal(getattr(found, name), expected), f'other {name}')


class ModelArrays(ModelFile):
  """model.safetensors, whose model.json is right, or was made for what is hostile."""

  file_name = model.TENSORS

  def run(self, number: int, folder: Path) -> None:
    facts = self._home(folder) / model.FACTS
    content = facts.read_bytes()
    try:
      super().run(number, folder)
    finally:
      facts.write_bytes(content)

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.9:
      return damage_safetensors(rng, content)
    one = np.ones(3, np.float32)
    names = rng.choice((('x', 'x/y'), ('', '/'), ('/', '//'), ('x' * 9999,), ('\0', '\x1b[2J')))
    return save(dict.fromkeys(names, one), {'x': '"hostile"'})

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    if b'hostile' in damaged:
      home = self._home(folder)
      facts = json.loads((home / model.FACTS).read_text())
      facts['tensors_sha256'] = tree_digest(model.load(damaged))
      model.write_facts(home, facts)
      damaged = b'"hostile"'
    super().read(folder, damaged, untouched)
