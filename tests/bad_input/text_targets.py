"""Split files, metadata, configs, results and logs."""

import json
import random
import re
from pathlib import Path
from typing import Any, ClassVar

import benchmark_layouts
import numpy as np

from bad_input import mutations
from bad_input.outcome import check
from bad_input.target import Target, as_nobody
from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.data.benchmarks import eyecandies, visa
from memkd_jax.files.digest import DIGEST
from memkd_jax.training.metrics_log import MetricsLog, read
from memkd_jax.workdir import Workdir


class TextFile(Target):
  """A text file of which `read` makes something.

  Attributes:
    stand_ins: how often something else stands in its place.
  """

  stand_ins = 0.15

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    path, content = self.valid(rng, folder)
    try:
      if rng.random() < self.stand_ins:
        kind = rng.choice(mutations.STAND_INS)
        mutations.stand_in(kind, path)
        self.expect(path)
        with as_nobody(kind == 'unreadable'):
          self.read(folder, b'', True)
      else:
        damaged = self.damage(rng, content)
        mutations.put(path, damaged)
        self.expect(path)
        self.read(folder, damaged, damaged == content)
    finally:
      mutations.put(path, content)

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    """The file that is damaged, and what it holds; the same for each case."""
    raise NotImplementedError

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    return rng.choice(mutations.ANY_BYTES)(rng, content)

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    raise NotImplementedError


class VisaSplit(TextFile):
  def prepare(self, folder: Path) -> None:
    benchmark_layouts.visa(folder)
    (folder / '1cls.csv').write_bytes((folder / 'split_csv' / '1cls.csv').read_bytes())

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return folder / 'split_csv' / '1cls.csv', (folder / '1cls.csv').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.6:
      return super().damage(rng, content)
    lines = content.decode().splitlines()
    i, column = rng.randrange(len(lines)), rng.randrange(5)
    cells = lines[i].split(',')
    odd = (
      '',
      '../x',
      '/etc/passwd',
      'train',
      'test',
      'normal',
      'anomaly',
      'a' * 200_000,
      '"',
      '\0',
    )
    action = rng.choice(('cell', 'cell', 'cell', 'drop', 'twice', 'more', 'other'))
    if action == 'cell':
      cells[column] = rng.choice((*odd, cells[rng.randrange(5)]))
      lines[i] = ','.join(cells)
    elif action == 'drop':
      lines[i] = ','.join(cells[:column])
    elif action == 'twice':
      lines.insert(rng.randrange(len(lines)), lines[i])
    elif action == 'more':
      lines[i] += ',x' * rng.choice((1, 10_000))
    else:
      lines[i] = lines[i].replace('candle', 'pcb1')
    return '\n'.join(lines).encode()

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(folder)
    seen: set[str] = set()
    for split in ('train', 'test'):
      for sample in visa.list_samples(folder, 'candle', split):
        check(sample.label == ('Anomaly' in sample.id), f'{sample.id} has label {sample.label}')
        check(sample.id not in seen, f'{sample.id} is there twice')
        check(Path(str(sample.image)).is_relative_to(folder / 'candle'), str(sample.image))
        check('..' not in sample.id, sample.id)
        seen.add(sample.id)


class EyecandiesMetadata(TextFile):
  _FILE = Path('CandyCane/test_public/data/001_metadata.yaml')

  def prepare(self, folder: Path) -> None:
    benchmark_layouts.eyecandies(folder)
    (folder / 'valid.yaml').write_bytes((folder / self._FILE).read_bytes())

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return folder / self._FILE, (folder / 'valid.yaml').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.6:
      return super().damage(rng, content)
    laughs = b'a: &a [x,x]\n' + b''.join(
      b'%c: &%c [*%c,*%c,*%c,*%c]\n' % (i, i, *[i - 1] * 4) for i in range(98, 120)
    )
    return rng.choice(
      (
        laughs,
        b'[' * 30_000,
        b'{' * 3000,
        b'- ' * 10_000,
        b'anomaly: 1' + b' ' * 10**6,
        b'!!python/object/apply:os.system ["true"]',
        b'anomaly: !!python/name:os.system 1',
        content.replace(
          b'1', rng.choice((b'1.5', b'.nan', b'.inf', b'-1', b'2', b'[1]', b'null'))
        ),
        content.replace(
          b'1', rng.choice((b"'1'", b'1' * 5000, b'0x1', b'true', b'yes', b'2020-01-01'))
        ),
        content.replace(b'anomaly', rng.choice((b'1', b'[a]', b'"\\n"', b'null', b'? x'))),
        b'anomaly: 1\n' * 2000,
      )
    )

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    samples = eyecandies.list_samples(folder, 'CandyCane', 'test')
    label = {s.id: s.label for s in samples}['test_public/001_image_0.png']
    says = re.search(rb'(?m)^[^#\n]*:\s*(0*1|0x1|true|yes|\+1|0b1|1_*)\b', damaged)
    check(label == bool(says), f'label {label}')


class RunConfig(TextFile):
  """config.json of a run's folder: a run with other figures must be refused."""

  _FREE = base.resumable(methods.fields('memkd'))

  def prepare(self, folder: Path) -> None:
    Workdir(folder).claim(methods.resolve(methods.get_config()), self._FREE)
    (folder / 'valid.json').write_bytes((folder / 'config.json').read_bytes())

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return folder / 'config.json', (folder / 'valid.json').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
      return super().damage(rng, content)
    return mutations.damage_json(rng, json.loads(content))

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(folder)
    Workdir(folder).claim(methods.resolve(methods.get_config()), self._FREE)
    if not untouched and damaged:
      valid = base.flatten(json.loads((folder / 'valid.json').read_text()))
      claimed = base.flatten(json.loads(damaged.decode('utf-8-sig')))
      fields = valid.keys() - self._FREE
      fields -= {DIGEST}
      different = [f for f in fields & claimed.keys() if valid[f] != claimed[f]]
      check(not different, f'{different} differ')
      check(not claimed.keys() - valid.keys(), f'{claimed.keys() - valid.keys()}')
    check(json.loads((folder / 'config.json').read_text()), 'it was not written again')


class Results(TextFile):
  """result.json of a finished category."""

  _RESULT: ClassVar[dict[str, Any]] = {
    'metrics': {'I-AUC': 0.98125, 'I-AP': 1.0, 'P-PRO': 0.0123},
    'counts': {'train': 209, 'test_normal': 20, 'test_anomalous': 63},
    'notes': ['It is not complete.'],
  }

  def prepare(self, folder: Path) -> None:
    Workdir(folder).write_result('bolt', 0, self._RESULT)
    (folder / 'valid.json').write_bytes(self._file(folder).read_bytes())

  def _file(self, folder: Path) -> Path:
    return Workdir(folder).category('bolt', 0) / 'result.json'

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return self._file(folder), (folder / 'valid.json').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
      return super().damage(rng, content)
    document = json.loads(content)
    if rng.random() < 0.5:  # as the first version wrote it
      del document['sha256']
    return mutations.damage_json(rng, document)

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    result = Workdir(folder).read_result('bolt', 0)
    if result is None:
      check(not self._file(folder).exists(), 'it is there')
      return
    check(all(0 <= value <= 1 for value in result['metrics'].values()), str(result['metrics']))
    check(all(type(value) is int for value in result['counts'].values()), str(result['counts']))
    check(all(isinstance(note, str) for note in result.get('notes') or ()), 'notes')
    if b'"sha256"' in damaged:
      check(result == self._RESULT, f'{result}')


class Log(TextFile):
  """metrics.jsonl: what is damaged is left out, and the log goes on."""

  def prepare(self, folder: Path) -> None:
    with MetricsLog(folder, 0) as log:
      for step in range(1, 6):
        log.write(step, {'loss': 1 / step, 'm1_entropy': 0.5})
    (folder / 'valid.jsonl').write_bytes((folder / 'metrics.jsonl').read_bytes())

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return folder / 'metrics.jsonl', (folder / 'valid.jsonl').read_bytes()

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    with MetricsLog(folder, 3) as log:
      log.write(4, {'loss': 0.25})
    steps = [values['step'] for values in read(folder / 'metrics.jsonl')]
    check(steps and steps[-1] == 4 and max(steps) <= 4, f'steps {steps}')
    np.asarray(steps, float)
