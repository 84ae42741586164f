"""Images, masks, anomaly maps, pictures of the report, and folders of images."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from bad_input import mutations, pictures
from bad_input.outcome import check
from bad_input.target import Target, as_nobody
from memkd_jax.data import folder as reader
from memkd_jax.data.decoding import count_pages, decode
from memkd_jax.data.images import as_framing, read_rgb
from memkd_jax.data.masks import read_mask
from memkd_jax.data.splits import load_split
from memkd_jax.report import html
from memkd_jax.scoring.external_maps import read_map

_SIZE = (32, 32)
_KINDS = ('bytes',) * 8 + ('header',) * 3 + ('splice', 'bomb', 'cut', 'stand_in')
# Pixels that a JPEG may lose at its end: its last block, of 16 by 16.
_BLOCK = 16 * 16


def _read_first(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
  """`read_image` of the first page, as `predict` reads it."""
  check(count_pages(path) >= 1, 'no page')
  image = read_rgb(path, page=0)
  return as_framing(size)(image), image.size


class Images(Target):
  """`read_image`, or `read_mask`."""

  def __init__(self, name: str, files: dict[str, bytes], of_masks: bool):
    super().__init__(name)
    self._files = files
    self._read = read_mask if of_masks else _read_first
    self._masks = of_masks

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    name = rng.choice(list(self._files))
    path = folder / name
    content = self._files[name]
    mutations.put(path, content)
    whole, size = self._read(path, _SIZE)
    kind = rng.choice(_KINDS)
    if kind == 'stand_in':
      stand_in = rng.choice(mutations.STAND_INS)
      mutations.stand_in(stand_in, path)
      self.expect(path)
      with as_nobody(stand_in == 'unreadable'):
        self._read(path, _SIZE)
      check(False, f'a {stand_in} was read')
    path, damaged, exact = self._damage(rng, kind, path, content)
    mutations.put(path, damaged)
    self.expect(path)
    read, new_size = self._read(path, _SIZE)
    shape = _SIZE if self._masks else (*_SIZE, 3)
    check(read.shape == shape and read.dtype == whole.dtype, f'{kind}: {read.shape}')
    check(0 < new_size[0] * new_size[1] <= 100e6, f'{kind}: {new_size}')
    claimed = pictures.header_size(path.name, damaged)
    check(claimed is None or sorted(claimed) == sorted(new_size), f'{claimed} is {new_size}')
    if kind == 'header':
      width, height = (_rounded(path, length) for length in size)
      larger = new_size[0] * new_size[1] > width * height
      check(not larger, f'{name}: {new_size} from the data of {size}')
    if exact:
      check(np.array_equal(read, whole) and new_size == size, f'{kind} {name}: other pixels')
    if kind == 'cut' and path.suffix == '.jpg':
      lost = np.asarray(decode(path)) != np.asarray(_decode(content, folder, name))
      lost = lost.any(axis=-1) if lost.ndim == 3 else lost
      check(lost.sum() <= _BLOCK, f'{lost.sum()} pixels are filled in')

  def _damage(
    self, rng: random.Random, kind: str, path: Path, content: bytes
  ) -> tuple[Path, bytes, bool]:
    """(path, content, whether it must be read as what it was, or not at all)."""
    if kind == 'bomb':
      name, damaged = pictures.bomb(rng)
      return path.with_name(name), damaged, False
    if kind == 'cut' and path.suffix == '.jpg':
      return path, pictures.cut_jpeg(rng, content), False
    if kind == 'splice':
      other = rng.choice(list(self._files.values()))
      return path, mutations.splice(rng, content, other), False
    if kind == 'header':
      damaged = pictures.damage_header(rng, path.name, content)
      if damaged is not None:
        return path, damaged, False
    damage = rng.choice(mutations.ANY_BYTES)
    damaged = damage(rng, content)
    # The checksums of a PNG see everything, and no format ends before its end.
    exact = path.suffix == '.png' or damage is mutations.truncate
    return path, damaged, exact and not _keeps_every_chunk(path, damaged, content)


def _rounded(path: Path, length: int) -> int:
  """How far data reach: a JPEG's to whole blocks."""
  return -(-length // 16) * 16 if path.suffix == '.jpg' else length


def _keeps_every_chunk(path: Path, damaged: bytes, content: bytes) -> bool:
  """Whether a PNG merely has more, behind its end or as a repetition of whole chunks."""
  return path.suffix == '.png' and damaged.startswith(content)


def _decode(content: bytes, folder: Path, name: str) -> Image.Image:
  path = folder / f'whole-{name}'
  path.write_bytes(content)
  return decode(path)


class Maps(Target):
  """`read_map`."""

  def prepare(self, folder: Path) -> None:
    values = np.random.default_rng(0).random((24, 32), np.float32)
    Image.fromarray(values).save(folder / 'valid.tiff')
    np.save(folder / 'valid.npy', values)

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    content = (folder / rng.choice(('valid.tiff', 'valid.npy'))).read_bytes()
    path = folder / ('map.npy' if content[1:6] == b'NUMPY' else 'map.tiff')
    damage = rng.choice(mutations.ANY_BYTES)
    mutations.put(path, damage(rng, content))
    self.expect(path)
    map_ = read_map(path)
    check(
      map_.ndim == 2 and np.isfinite(map_).all() and map_.size, f'{map_.dtype} {map_.shape}'
    )
    if damage is mutations.truncate:
      check(np.array_equal(map_, read_map(folder / f'valid{path.suffix}')), 'other values')


class Pictures(Target):
  """A picture of a run's folder in the report, whose loss must not cost the report."""

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    path = folder / 'figure.png'
    mutations.put(path, b'')
    if rng.random() < 0.2:
      mutations.stand_in(rng.choice(mutations.STAND_INS), path)
    elif rng.random() < 0.1:
      path.write_bytes(pictures.bomb(rng)[1])
    else:
      content = pictures.images()['color.png']
      path.write_bytes(rng.choice(mutations.ANY_BYTES)(rng, content))
    picture = html.read_picture(path)
    check(picture is None or picture.source.startswith('data:image/webp;'), 'no picture')
    mutations.remove(path) if path.is_symlink() or path.exists() else None


class Folders(Target):
  """A category whose files and names are not what they should be."""

  def prepare(self, folder: Path) -> None:
    content = pictures.images()['color.png']
    mask = pictures.masks()['white.png']
    for i in range(3):
      for name in ('train/good', 'test/good', 'test/hole'):
        _write(folder / 'bolt' / name / f'{i}.png', content)
      _write(folder / 'bolt/ground_truth/hole' / f'{i}_mask.png', mask)

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    files = sorted(p for p in (folder / 'bolt').rglob('*') if p.suffix)
    path = rng.choice(files)
    content = path.read_bytes()
    kind = rng.choice((*mutations.STAND_INS, 'name', 'name', 'extra'))
    self.expect(path, path.parent, path.name)
    made = path
    try:
      if kind == 'name':
        odd = rng.choice(
          (b'\xff.png', b'\xe9\xe8.png', b'a\nb.png', b'\x1b[2J.png', b'\xed\xa0.png')
        )
        made = Path(bytes(path.parent).decode() + '/' + odd.decode(errors='surrogateescape'))
        self.expect(path.parent)
        path.rename(made)
      elif kind == 'extra':
        made = path.with_name('zzz.png')
        made.write_bytes(b'')
        mutations.stand_in(rng.choice(('pipe', 'folder', 'loop', 'dangling', 'device')), made)
        self.expect(made)
      else:
        mutations.stand_in(kind, path)
      with as_nobody(kind == 'unreadable'):
        for split, expected in (('train', 3), ('test', 6)):
          samples = reader.list_samples(folder, 'bolt', split)
          load_split(samples, _SIZE, 2)
          fewer = kind == 'missing' and path.parent.name in ('good', 'hole')
          check(
            fewer or len(samples) == expected, f'{kind} {path}: {len(samples)} {split} images'
          )
    finally:
      if made.is_symlink() or made.exists():
        mutations.remove(made)
      if path.is_symlink() or path.exists():
        mutations.remove(path)
      path.write_bytes(content)


def _write(path: Path, content: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
