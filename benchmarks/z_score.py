"""The demo's weakest rival: how far the mean of a window is from its mean on normal images.

python benchmarks/z_score.py --data=~/datasets/memkd_demo_textures
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.metrics import auroc

WINDOWS = (1, 4, 8, 16)


def window_means(images: np.ndarray, window: int) -> np.ndarray:
  """[N, H, W] -> [N, H - window + 1, W - window + 1], the means of all whole windows."""
  means = ndimage.uniform_filter(images.astype(np.float64), (1, window, window))
  start, (height, width) = window // 2, images.shape[1:]
  return means[:, start : start + height - window + 1, start : start + width - window + 1]


def image_scores(normal: np.ndarray, images: np.ndarray, window: int) -> np.ndarray:
  """The largest |mean of a window - m| / s of each image.

  Args:
    normal: [M, H, W], whose window means have the mean m and the standard deviation s.
    images: [N, H, W].
    window: its side in pixels.

  Returns:
    float64 [N].
  """
  means = window_means(normal, window)
  return np.abs(window_means(images, window) - means.mean()).max((1, 2)) / means.std()


def category_auroc(folder: Path, window: int) -> float:
  """I-AUC of one category in the folder layout, grey images of one size."""
  test = sorted((folder / 'test').glob('*/*.png'))
  labels = np.array([path.parent.name != 'good' for path in test])
  normal = _read(sorted((folder / 'train' / 'good').glob('*.png')))
  return auroc(labels, image_scores(normal, _read(test), window))


def _read(paths: list[Path]) -> np.ndarray:
  return np.stack([np.asarray(Image.open(path).convert('L')) for path in paths])


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--data', default='~/datasets/memkd_demo_textures', help='made where missing'
  )
  root = Path(parser.parse_args().data).expanduser()
  if not root.exists():
    demo_textures.prepare(root)
  print('| window | ' + ' | '.join(demo_textures.CATEGORIES) + ' | mean |')
  for window in WINDOWS:
    found = [category_auroc(root / category, window) for category in demo_textures.CATEGORIES]
    cells = [f'{100 * x:.1f}' for x in [*found, np.mean(found)]]
    print(f'| {window} x {window} | ' + ' | '.join(cells) + ' |')
