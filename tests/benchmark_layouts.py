"""Miniature copies of the benchmarks, down to names, suffixes, modes and metadata."""

import csv
import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIZE = 32


class Maker:
  """Writes images; every image is another one."""

  def __init__(self, root: Path):
    self.root = root
    self._rng = np.random.default_rng(0)

  def image(self, path: str, mode: str = 'RGB', size: int = SIZE) -> None:
    shape = (size, size) if mode == 'L' else (size, size, 3)
    self._save(path, self._rng.integers(0, 256, shape, dtype=np.uint8))

  def mask(self, path: str, value: int = 255, size: int = SIZE) -> None:
    """A square of `value`; 0 for the black mask of a normal image."""
    pixels = np.zeros((size, size), np.uint8)
    row, column = self._rng.integers(0, size // 2, 2)
    pixels[row : row + size // 3, column : column + size // 3] = value
    self._save(path, pixels)

  def cloud(self, path: str, size: int = SIZE, deflated: bool = False) -> None:
    """A box on a tilted plane, in metres, with noise and holes."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    z = 0.6 + 0.01 * x - 0.02 * y + self._rng.normal(0, 1e-4, x.shape)
    row, column = self._rng.integers(size // 4, size // 2, 2)
    z[row : row + size // 4, column : column + size // 4] -= 0.02
    points = np.stack([0.1 * x, 0.1 * y, z], axis=-1).astype(np.float32)
    points[self._rng.random(x.shape) < 0.2] = 0
    points[: size // 4, -size // 3 :] = 0  # a shadow
    file = self.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, points, photometric='rgb', compression='zlib' if deflated else None)

  def depth(self, path: str, size: int = SIZE) -> None:
    """A box on a tilted plane, of 16 bits."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    z = 30000 + 5000 * x + 2000 * y + self._rng.normal(0, 20, x.shape)
    row, column = self._rng.integers(size // 4, size // 2, 2)
    z[row : row + size // 4, column : column + size // 4] -= 9000
    self._save(path, z.astype(np.uint16))

  def text(self, path: str, content: str) -> None:
    file = self.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding='utf-8')

  def _save(self, path: str, pixels: np.ndarray) -> None:
    file = self.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def mvtec_ad(root: Path, categories: tuple[str, ...] = ('bottle', 'grid')) -> None:
  make = Maker(root)
  make.text('license.txt', 'CC BY-NC-SA 4.0')
  for category in categories:
    mode = 'L' if category in ('grid', 'screw', 'zipper') else 'RGB'
    make.text(f'{category}/readme.txt', '')
    for i in range(9):
      make.image(f'{category}/train/good/{i:03}.png', mode)
    for i in range(3):
      make.image(f'{category}/test/good/{i:03}.png', mode)
    for defect in ('broken_large', 'contamination'):
      for i in range(2):
        make.image(f'{category}/test/{defect}/{i:03}.png', mode)
        make.mask(f'{category}/ground_truth/{defect}/{i:03}_mask.png')


def mpdd(root: Path, categories: tuple[str, ...] = ('bracket_black', 'tubes')) -> None:
  mvtec_ad(root, categories)


def visa(root: Path, categories: tuple[str, ...] = ('candle', 'pcb1')) -> None:
  make = Maker(root)
  rows = []
  for category in categories:
    data = f'{category}/Data'
    for i in range(12):
      image = f'{data}/Images/Normal/{i:04}.JPG'
      make.image(image, size=SIZE + 9)
      rows.append([category, 'test' if i % 4 == 1 else 'train', 'normal', image, ''])
    for i in range(3):
      image, mask = f'{data}/Images/Anomaly/{i:03}.JPG', f'{data}/Masks/Anomaly/{i:03}.png'
      make.image(image, size=SIZE + 9)
      make.mask(mask, value=i + 1, size=SIZE + 9)  # class ids
      rows.append([category, 'test', 'anomaly', image, mask])
    make.text(f'{category}/image_anno.csv', 'image,label,mask\n')
  for name in ('1cls.csv', '2cls_fewshot.csv', '2cls_highshot.csv'):
    make.text(f'split_csv/{name}', '')
  with (root / 'split_csv' / '1cls.csv').open('w', newline='') as file:
    csv.writer(file).writerows([['object', 'split', 'label', 'image', 'mask'], *rows])


def mvtec_3d(root: Path, categories: tuple[str, ...] = ('bagel', 'tire')) -> None:
  make = Maker(root)
  for category in categories:
    make.text(f'{category}/calibration/camera_parameters.json', json.dumps({}))
    splits = {'train/good': 9, 'validation/good': 2, 'test/good': 3}
    splits |= {'test/combined': 2, 'test/hole': 2}
    for folder, number in splits.items():
      for i in range(number):
        make.image(f'{category}/{folder}/rgb/{i:03}.png')
        make.cloud(f'{category}/{folder}/xyz/{i:03}.tiff', deflated=i % 2 == 1)
        if folder.startswith('test'):
          make.mask(f'{category}/{folder}/gt/{i:03}.png', 0 if 'good' in folder else 255)


def eyecandies(root: Path, categories: tuple[str, ...] = ('CandyCane', 'GummyBear')) -> None:
  make = Maker(root)
  kinds = ('bumps', 'colors', 'dents', 'normals')
  for category in categories:
    for folder, number in {'train': 9, 'val': 2, 'test_public': 6}.items():
      for i in range(number):
        name = f'{category}/{folder}/data/{i:03}'
        anomalous = folder == 'test_public' and i % 2 == 1
        for light in range(6):
          make.image(f'{name}_image_{light}.png')
        make.depth(f'{name}_depth.png')
        make.image(f'{name}_normals.png')
        make.text(f'{name}_info_depth.yaml', 'normalization: {min: 0.1, max: 0.9}\n')
        values = {'anomaly': int(anomalous)}
        values |= {kind: int(anomalous and k in (1, i % 3)) for k, kind in enumerate(kinds)}
        lines = ''.join(f'{key}: {value}\n' for key, value in values.items())
        make.text(f'{name}_metadata.yaml', lines)
        if folder == 'test_public':
          make.mask(f'{name}_mask.png', 255 * anomalous)
          for kind in kinds:
            make.mask(f'{name}_{kind}_mask.png', 255 * values[kind])


def mvtec_loco(root: Path, categories: tuple[str, ...] = ('breakfast_box', 'pushpins')) -> None:
  make = Maker(root)
  logical, structural = 'logical_anomalies', 'structural_anomalies'
  entries = [
    {
      'defect_name': 'missing_almonds',
      'pixel_value': 255,
      'saturation_threshold': 20,
      'relative_saturation': False,
    },
    {
      'defect_name': 'nuts_everywhere',
      'pixel_value': 245,
      'saturation_threshold': 0.5,
      'relative_saturation': True,
    },
    {
      'defect_name': 'contamination',
      'pixel_value': 244,
      'saturation_threshold': 1.0,
      'relative_saturation': True,
    },
  ]
  for category in categories:
    for name in ('license.txt', 'readme.txt'):
      make.text(f'{category}/{name}', '')
    make.text(f'{category}/defects_config.json', json.dumps(entries))
    splits = {'train/good': 9, 'validation/good': 2, 'test/good': 3}
    for folder, number in (splits | {f'test/{logical}': 2, f'test/{structural}': 2}).items():
      for i in range(number):
        make.image(f'{category}/{folder}/{i:03}.png')
    for i in range(2):
      truth = f'{category}/ground_truth'
      make.mask(f'{truth}/{logical}/{i:03}/000.png', 255 if i else 245)
      make.mask(f'{truth}/{structural}/{i:03}/000.png', 244)
    make.mask(f'{category}/ground_truth/{logical}/001/001.png', 245)  # a second defect


def mvtec_ad_2(root: Path, categories: tuple[str, ...] = ('can', 'vial')) -> None:
  make = Maker(root)
  lights = ('regular', 'overexposed', 'underexposed', 'shift_1', 'shift_2', 'shift_3')
  for name in ('license.txt', 'readme.txt'):
    make.text(name, '')
  for category in categories:
    mode = 'L' if category == 'vial' else 'RGB'
    for folder, number in {'train': 9, 'validation': 2}.items():
      for i in range(number):
        make.image(f'{category}/{folder}/good/{i:03}_regular.png', mode)
    for i, light in enumerate(lights):
      kind = 'bad' if i % 2 else 'good'
      make.image(f'{category}/test_public/{kind}/{i // 2:03}_{light}.png', mode)
      if kind == 'bad':
        make.mask(f'{category}/test_public/ground_truth/bad/{i // 2:03}_{light}_mask.png')
    for split, light in {'test_private': 'regular', 'test_private_mixed': 'mixed'}.items():
      for i in range(3):
        make.image(f'{category}/{split}/{i:03}_{light}.png', mode, size=SIZE + 8)


LAYOUTS = {
  f.__name__: f for f in (mvtec_ad, visa, mpdd, mvtec_3d, eyecandies, mvtec_loco, mvtec_ad_2)
}
