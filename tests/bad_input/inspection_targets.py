"""Split files and labels of further benchmarks."""

import json
import random
from pathlib import Path

import inspection_layouts

from bad_input import mutations
from bad_input.outcome import check
from bad_input.text_targets import TextFile
from memkd_jax.data.benchmarks import dagm, real_iad


class RealIadSplit(TextFile):
  def prepare(self, folder: Path) -> None:
    inspection_layouts.real_iad(folder, ('toy',))
    (folder / 'valid.json').write_bytes(self._file(folder).read_bytes())

  def _file(self, folder: Path) -> Path:
    return folder / 'realiad_jsons' / 'toy.json'

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return self._file(folder), (folder / 'valid.json').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.4:
      return super().damage(rng, content)
    document = json.loads(content)
    if rng.random() < 0.4:
      entry = rng.choice(document[rng.choice(('train', 'test'))])
      odd = ('', '..', '../x/y.jpg', '/etc/passwd', 'OK/\0', None, 7, [], 'OK', 'good', 'BX')
      entry[rng.choice(list(entry))] = rng.choice(odd)
      return json.dumps(document).encode()
    return mutations.damage_json(rng, document)

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(folder)
    seen: set[str] = set()
    for split in ('train', 'test'):
      for sample in real_iad.list_samples(folder, 'toy', split):
        inside = folder / 'realiad_1024' / 'toy'
        check(Path(str(sample.image)).is_relative_to(inside), str(sample.image))
        check('..' not in sample.id, sample.id)
        check(sample.defect.isidentifier(), sample.defect)
        check(split == 'test' or not sample.label, f'{sample.id} is learned from')
        check(sample.id not in seen, f'{sample.id} is there twice')
        seen.add(sample.id)
    real_iad.notes(folder, 'toy')


class DagmLabels(TextFile):
  def prepare(self, folder: Path) -> None:
    inspection_layouts.dagm(folder, ('Class3',))
    (folder / 'valid.txt').write_bytes(self._file(folder).read_bytes())

  def _file(self, folder: Path) -> Path:
    return folder / 'Class3' / 'Test' / 'Label' / 'Labels.txt'

  def valid(self, rng: random.Random, folder: Path) -> tuple[Path, bytes]:
    return self._file(folder), (folder / 'valid.txt').read_bytes()

  def damage(self, rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
      return super().damage(rng, content)
    rows = [line.split('\t') for line in content.decode().splitlines()]
    row = rng.choice(rows)
    odd = ('', '..', '../Train/0005.PNG', '/etc/passwd', '2', '1', '0', '\0', 'a' * 200_000)
    row[rng.randrange(len(row))] = rng.choice((*odd, rows[1][2]))
    return '\n'.join('\t'.join(row) for row in rows).encode()

  def read(self, folder: Path, damaged: bytes, untouched: bool) -> None:
    self.expect(folder)
    samples = dagm.list_samples(folder, 'Class3', 'test')
    inside = folder / 'Class3' / 'Test'
    for sample in samples:
      check(Path(str(sample.image)).parent == inside, str(sample.image))
      check(sample.mask is None or sample.label == 1, f'{sample.id} is normal with a mask')
    check(len({s.id for s in samples}) == len(samples), 'an image is there twice')
