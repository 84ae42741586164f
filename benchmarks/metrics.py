"""Times the pixel metrics against what others use, alternating in one process.

  python benchmarks/metrics.py
  python benchmarks/metrics.py --streaming

The first prints medians over repetitions and their ratios for the pixels of one
MVTec category (83 maps of 256 x 256, float32). The second measures the peak
memory of the streaming forms on 40 maps of 1000 x 1500.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from memkd_jax import metrics


def make_category(images: int = 83, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
  """Smooth maps with a bump at each defect, three quarters of the images defective."""
  rng = np.random.default_rng(0)
  masks = np.zeros((images, side, side), np.uint8)
  for i in range(images * 3 // 4):
    for _ in range(rng.integers(1, 4)):
      row, column = rng.integers(0, side * 3 // 4, 2)
      height, width = rng.integers(side // 32, side // 4, 2)
      masks[i, row : row + height, column : column + width] = 1
  noise = ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 4, 4))
  return masks, (8 * noise + 0.8 * masks).astype(np.float32)


def scikit_learn(masks: np.ndarray, maps: np.ndarray) -> tuple[float, float]:
  """P-AUC and P-AP alone."""
  from sklearn.metrics import average_precision_score, roc_auc_score

  labels, scores = masks.ravel(), maps.ravel()
  return roc_auc_score(labels, scores), average_precision_score(labels, scores)


def threshold_loop(masks: np.ndarray, maps: np.ndarray) -> float:
  """P-PRO alone, as it is mostly written: 200 thresholds, image by image."""
  labelled = [ndimage.label(m, np.ones((3, 3)))[0] for m in masks]
  regions = [[labels == k for k in range(1, labels.max() + 1)] for labels in labelled]
  normal = masks == 0
  fprs, pros = [], []
  for threshold in np.linspace(maps.min(), maps.max(), 200):
    flagged = maps >= threshold
    overlaps = [
      flagged[i][region].mean() for i, found in enumerate(regions) for region in found
    ]
    pros.append(np.mean(overlaps))
    fprs.append(flagged[normal].mean())
  x, y = np.array(fprs)[::-1], np.array(pros)[::-1]
  return float(np.trapezoid(y[x <= 0.3], x[x <= 0.3]) / 0.3)


def compare(repetitions: int) -> None:
  """Prints medians and ratios."""
  masks, maps = make_category()
  contestants: dict[str, Callable] = {
    'evaluate_pixels (all four)': metrics.evaluate_pixels,
    'scikit-learn AUROC + AP': scikit_learn,
    'PRO, 200 thresholds': threshold_loop,
  }
  times: dict[str, list[float]] = {name: [] for name in contestants}
  for _ in range(repetitions):
    for name, function in contestants.items():
      start = time.perf_counter()
      function(masks, maps)
      times[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(values) for name, values in times.items()}
  ours = medians['evaluate_pixels (all four)']
  print(f'{maps.size} pixels, {100 * masks.mean():.1f}% anomalous, {repetitions} repetitions')
  for name, median in medians.items():
    print(f'{name:28} {median:8.3f} s   {median / ours:6.1f} x')


def stream(kind: str, images: int, height: int, width: int) -> None:
  """Prints the peak memory of one streaming form, beyond that of the imports."""
  rng = np.random.default_rng(0)
  mask = np.zeros((height, width), np.uint8)
  mask[: height // 10, : width // 10] = 1  # 1% of the pixels
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  pixels = metrics.PixelScores() if kind == 'exact' else metrics.BinnedPixelScores()
  start = time.perf_counter()
  for _ in range(images):
    pixels.add(mask, rng.random((height, width), np.float32) + mask)
  pixels.evaluate()
  seconds = time.perf_counter() - start
  peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  size = images * height * width * 4 / 2**20
  print(
    f'{kind:8} {images} maps of {height} x {width}: maps {size:.0f} MiB, '
    f'peak {peak:.0f} MiB ({peak / size:.2f} x), {seconds:.1f} s'
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repetitions', type=int, default=5)
  parser.add_argument(
    '--streaming', choices=['both', 'exact', 'binned'], nargs='?', const='both'
  )
  parser.add_argument('--images', type=int, default=40)
  options = parser.parse_args()
  if options.streaming == 'both':
    # A process each, since the peak of a process never falls.
    for kind in ('exact', 'binned'):
      arguments = [f'--streaming={kind}', f'--images={options.images}']
      subprocess.run([sys.executable, __file__, *arguments], check=True)
  elif options.streaming:
    stream(options.streaming, options.images, 1000, 1500)
  else:
    compare(options.repetitions)


if __name__ == '__main__':
  main()
