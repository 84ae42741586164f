"""Miniature copies of further benchmarks, with layouts of their own, down to JSON fields."""

import json
from pathlib import Path

import numpy as np
from benchmark_layouts import SIZE, Maker


class TallMaker(Maker):
  """Of images that are higher than wide, as those of a line."""

  WIDTH = 24

  def tall(self, path: str, mode: str = 'RGB') -> None:
    shape = (SIZE, self.WIDTH) if mode == 'L' else (SIZE, self.WIDTH, 3)
    self._save(path, self._rng.integers(0, 256, shape, dtype=np.uint8))

  def label(self, path: str, defective: bool) -> None:
    """The label image of a tall one: black where it is normal."""
    pixels = np.zeros((SIZE, self.WIDTH), np.uint8)
    row, column = self._rng.integers(2, self.WIDTH // 2, 2)
    pixels[row : row + 8, column : column + 6] = 255 * defective
    self._save(path, pixels)


def btad(root: Path, categories: tuple[str, ...] = ('01', '02', '03')) -> None:
  make = Maker(root)
  make.text('README.txt', 'BeanTech Anomaly Detection Dataset - BTAD')
  for category in categories:
    image = 'png' if category == '02' else 'bmp'
    mask = 'bmp' if category == '03' else 'png'
    for i in range(9):
      make.image(f'{category}/train/ok/{i:04}.{image}')
    for i in range(3):
      make.image(f'{category}/test/ok/{i:04}.{image}')
      make.image(f'{category}/test/ko/{i:04}.{image}')
      make.mask(f'{category}/ground_truth/ko/{i:04}.{mask}')


def vad(root: Path) -> None:
  make = Maker(root)
  kinds = {'train/good': 9, 'train/bad': 4, 'test/good': 3}
  kinds |= {'test/bad': 3, 'test/bad_unseen_defects': 2}
  for folder, number in kinds.items():
    for i in range(number):
      make.image(f'vad/{folder}/{i:04}.png')
  make.text('vad/low_shot_train.json', json.dumps({'10': ['0000.png']}))


def ksdd(root: Path, objects: int = 6) -> None:
  """Each object has its defect on one of its surfaces, number 1 on two."""
  make = TallMaker(root)
  for i in range(1, objects + 1):
    for part in range(4):
      name = f'kos{i:02}/Part{part}'
      defective = part == i % 4 or (i, part) == (1, 3)
      make.tall(f'{name}.jpg', 'L')
      make.label(f'{name}_label.bmp', defective)


def ksdd2(root: Path) -> None:
  make = TallMaker(root)
  for split, first, normal, defective in (('train', 10000, 9, 3), ('test', 20000, 3, 4)):
    for i in range(normal + defective):
      name = f'{split}/{first + i}'
      make.tall(f'{name}.png')
      make.label(f'{name}_GT.png', i % 2 == 0 and i // 2 < defective)


def dagm(root: Path, categories: tuple[str, ...] = ('Class1', 'Class7')) -> None:
  make = Maker(root)
  for category in categories:
    for split, first, normal, defective in (('Train', 5, 9, 2), ('Test', 1, 3, 2)):
      folder, lines = f'{category}/{split}', [category.removeprefix('Class')]
      for i in range(first, first + normal + defective):
        is_defective = i >= first + normal
        make.image(f'{folder}/{i:04}.PNG', 'L')
        if is_defective:
          make.mask(f'{folder}/Label/{i:04}_label.PNG')
        label = f'{i:04}_label.PNG' if is_defective else '0'
        lines.append(f'{i}\t{int(is_defective)}\t{i:04}.PNG\t{int(is_defective)}\t{label}')
      make.text(f'{folder}/Label/Labels.txt', '\n'.join([*lines, '']))


def real_iad(
  root: Path,
  categories: tuple[str, ...] = ('audiojack', 'zipper'),
  size: str = 'realiad_1024',
) -> None:
  """Nine training views of two parts; a normal part, and two whose views are not all bad."""
  make = Maker(root)
  for category in categories:
    splits: dict[str, list[dict[str, str | None]]] = {'train': [], 'test': []}
    parts = (('train', 'OK', 1, 5), ('train', 'OK', 2, 4), ('test', 'OK', 3, 2))
    parts += (('test', 'NG/BX', 1, 3), ('test', 'NG/HS', 1, 2))
    for split, folder, number, views in parts:
      kind = folder.replace('/', '_')
      for view in range(1, views + 1):
        name = f'{folder}/S{number:04}/{category}_{number:04}_{kind}_C{view}_20231021130716'
        defective = folder.startswith('NG') and view != 3
        make.image(f'{size}/{category}/{name}.jpg')
        if defective:
          make.mask(f'{size}/{category}/{name}.png')
        splits[split].append(
          {
            'category': category,
            'anomaly_class': folder.removeprefix('NG/') if defective else 'OK',
            'image_path': f'{name}.jpg',
            'mask_path': f'{name}.png' if defective else None,
          }
        )
    meta = {'prefix': f'{category}/', 'normal_class': 'OK', 'pre_transform': False}
    document = json.dumps({'meta': meta, **splits}, indent=4)
    make.text(f'realiad_jsons/{category}.json', document)


LAYOUTS = {f.__name__: f for f in (btad, ksdd, ksdd2, vad, real_iad, dagm)}
