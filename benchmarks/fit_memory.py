"""Measures the memory and the time that fitting takes of a method without training steps.

  python benchmarks/fit_memory.py --method=patchcore
  python benchmarks/fit_memory.py --method=padim --images=391

As many images as MVTec AD's largest category has, 256 pixels, and the paper's teacher with
random weights: neither time nor memory depends on them. The images are smooth noise, so that
patches are alike to their neighbours, as they are in photographs.
"""

from memkd_jax.runtime import huge_pages

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # as memkd_jax.main does

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from scipy import ndimage

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.methods.base import Task
from memkd_jax.runtime.devices import Devices
from memkd_jax.runtime.memory import peak_memory, reset_peak
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor


def make_images(number: int, size: int) -> np.ndarray:
  """Smooth noise, uint8 [number, size, size, 3]."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(number, size // 8, size // 8, 3)).astype(np.float32)
  smooth = ndimage.zoom(noise, (1, 8, 8, 1), order=1)
  return np.clip(128 + 48 * smooth, 0, 255).astype(np.uint8)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--method', default='patchcore', choices=('patchcore', 'knn', 'padim', 'spade')
  )
  parser.add_argument('--backbone', default='wide_resnet50_2')
  parser.add_argument('--images', type=int, default=391)
  parser.add_argument('--batch-size', type=int, default=32)
  parser.add_argument(
    '--set', nargs='*', default=[], metavar='FIELD=VALUE', help='numbers alone'
  )
  options = parser.parse_args()
  images = make_images(options.images, 256)
  config = methods.get_config('mvtec_ad', options.method)
  config.model.backbone = options.backbone
  config.model.teacher_weights = base.RANDOM_TEACHER
  config.eval.batch_size = options.batch_size
  for name, value in (pair.split('=') for pair in options.set):
    base.set_value(config, name, type(base.get_value(config, name))(value))
  config = methods.resolve(config)
  extractor, devices = FeatureExtractor(options.backbone, base.RANDOM_TEACHER), Devices()
  method = methods.create(config, extractor, devices)
  report('before', time.monotonic())
  reset_peak()
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    params = method.fit(Task.of_category('benchmark', 0), images, Path(folder)).params
  report('fit', began)
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  print(f'the model: {size / 1e9:.2f} GB')
  score = devices.map(Pipeline(extractor, method, **config.anomaly_map.to_dict()).score)
  batch = devices.shard(images[: options.batch_size])
  arguments = devices.replicate(params), devices.replicate(extractor.params), batch
  for what in ('compile and score a batch', 'score a batch'):
    reset_peak()
    began = time.monotonic()
    jax.block_until_ready(score(*arguments))
    report(what, began)


def report(what: str, began: float) -> None:
  """Prints what took how long, and the peak since the last `reset_peak`."""
  peak = (peak_memory() or 0) / 1e9
  print(f'{what}: {time.monotonic() - began:.1f} s, peak {peak:.2f} GB', flush=True)


if __name__ == '__main__':
  main()
