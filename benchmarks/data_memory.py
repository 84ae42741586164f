"""Measures what an image costs to read as the set grows, from memory and from the disk.

  python benchmarks/data_memory.py --scratch=/tmp --plot=docs/data_memory.png
  python benchmarks/data_memory.py --scratch=/tmp --features=resnet18

Generated images of 256 x 256 pixels are written to a row file (or an array) and read in the
order of a training: batches of 16 from seeded permutations. Each line is a process of its own.
Read cold, the file's pages were dropped from the page cache beforehand, and each batch is one
of images that have not been read since; read again, the same batches once more. The stall is
what a step waits for its batch with reading ahead, while a device computes for --compute
milliseconds, for which the host sleeps. Memory is RssAnon, which the page cache is no part of.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from memkd_jax.data.prefetch import Prefetch
from memkd_jax.data.sampling import batch_indices
from memkd_jax.files.stored_rows import RowFile

_SIDE, _BATCH, _STEPS = 256, 16, 400
_BYTES = 3 * _SIDE**2


def anonymous_memory() -> int:
  """Bytes of this process that are of no file."""
  lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
  return next(1024 * int(line.split()[1]) for line in lines if line.startswith('RssAnon'))


def fill(images: np.ndarray) -> None:
  """Writes noise, another image at each index, so that no file system can compress it."""
  noise = np.random.default_rng(0).integers(0, 256, 2 * _BYTES, dtype=np.uint8)
  for i in range(len(images)):
    begin = i * 7919 % _BYTES
    images[i] = noise[begin : begin + _BYTES].reshape(_SIDE, _SIDE, 3)


def measure(place: str, number: int, scratch: Path, compute: float) -> dict[str, object]:
  """What a set of so many images costs, in one place."""
  import grain  # noqa: F401, whose import is no part of a first step

  before = anonymous_memory()
  shape = (number, _SIDE, _SIDE, 3)
  images = np.empty(shape, np.uint8) if place == 'host' else RowFile(scratch, shape, np.uint8)
  began = time.monotonic()
  fill(images)
  if place == 'disk':
    os.fsync(images._handle)
    os.posix_fadvise(images._handle, 0, 0, os.POSIX_FADV_DONTNEED)
  written = time.monotonic() - began
  steps = min(_STEPS, number // _BATCH)
  result: dict[str, object] = {'place': place, 'images': number, 'steps': steps}
  result['write_ms'] = 1e3 * written / number
  draws = []
  for step in range(steps):
    began = time.monotonic()
    batch_indices(0, 'set', number, _BATCH, step)
    draws.append(time.monotonic() - began)
  result['order_ms'] = 1e3 * statistics.median(draws) / _BATCH
  for turn in ('cold', 'again'):
    reads = []
    for step in range(steps):
      began = time.monotonic()
      images[batch_indices(0, 'set', number, _BATCH, step)]
      reads.append(time.monotonic() - began)
    result[turn] = 1e3 * statistics.median(reads) / _BATCH
    result[f'{turn}_mean'] = 1e3 * statistics.mean(reads) / _BATCH
  if place == 'disk':
    os.posix_fadvise(images._handle, 0, 0, os.POSIX_FADV_DONTNEED)
  # The steps before have had their epoch's other images: these are read for the first time.
  first = 0 if number < 2 * steps * _BATCH else steps
  stalls = []

  def read(step: int) -> np.ndarray:
    return images[batch_indices(0, 'set', number, _BATCH, step)]

  with Prefetch(read, first + steps) as ahead:
    for step in range(first, first + steps):
      began = time.monotonic()
      ahead(step) if place == 'disk' else read(step)
      stalls.append(time.monotonic() - began)
      time.sleep(compute)
  result['stall_ms'] = 1e3 * statistics.median(stalls[1:])
  result['stall_mean'] = 1e3 * statistics.mean(stalls[1:])
  gc.collect()
  result['memory_mb'] = (anonymous_memory() - before) / 1e6
  return result


def measure_features(backbone: str, number: int, scratch: Path) -> str:
  """What the teacher's features of an image cost: computed, and read from a file."""
  import jax

  from memkd_jax.runtime.devices import Devices
  from memkd_jax.teachers.extractor import FeatureExtractor

  devices, extractor = Devices(), FeatureExtractor(backbone, 'random')
  images = np.empty((number, _SIDE, _SIDE, 3), np.uint8)
  fill(images)
  shapes = extractor.shapes((_SIDE, _SIDE), 3)
  files = [RowFile(scratch, (number, *x.shape[1:]), x.dtype) for x in shapes]
  step = devices.map(lambda params, x: extractor(params, x, 3))
  params = devices.replicate(extractor.params)
  jax.block_until_ready(step(params, devices.shard(images[:_BATCH])))
  computed, read = [], []
  for begin in range(0, number - _BATCH + 1, _BATCH):
    began = time.monotonic()
    found = jax.block_until_ready(step(params, devices.shard(images[begin : begin + _BATCH])))
    computed.append(time.monotonic() - began)
    for file, stage in zip(files, found, strict=True):
      file[begin : begin + _BATCH] = devices.unshard(stage, _BATCH)
  for file in files:
    os.fsync(file._handle)
    os.posix_fadvise(file._handle, 0, 0, os.POSIX_FADV_DONTNEED)
  for number_of_step in range(number // _BATCH):
    indices = batch_indices(0, 'set', number, _BATCH, number_of_step)
    began = time.monotonic()
    _ = [file[indices] for file in files]
    read.append(time.monotonic() - began)
  size = sum(file.nbytes for file in files) / number / 1e6
  each = [1e3 * statistics.median(times) / _BATCH for times in (computed, read)]
  kind = devices.local[0].device_kind
  what = f'{backbone}, {size:.2f} MB an image: '
  return what + f'computed {each[0]:.1f} ms ({kind}), read {each[1]:.2f} ms'


def table(results: list[dict]) -> str:
  """The results in Markdown."""
  lines = [
    '| images | GB | place | write, ms | order, ms | first read, ms | read again, ms | '
    'stall a step, ms: median, mean | memory, MB |',
    '| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for r in results:
    lines.append(
      f'| {r["images"]:,} | {r["images"] * _BYTES / 1e9:.1f} | {r["place"]} | '
      f'{r["write_ms"]:.3f} | {r["order_ms"]:.4f} | {r["cold"]:.3f} | {r["again"]:.3f} | '
      f'{r["stall_ms"]:.2f}, {r["stall_mean"]:.2f} | {r["memory_mb"]:,.0f} |'
    )
  return '\n'.join(lines)


def plot(results: list[dict], path: Path) -> None:
  """Milliseconds an image over the number of images."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  figure, axis = plt.subplots(figsize=(6, 3.4), dpi=110)
  for place, turn, label, style in (
    ('host', 'again', 'memory', 'o-'),
    ('disk', 'again', 'disk, read again (page cache)', 's-'),
    ('disk', 'cold', 'disk, first read', '^-'),
  ):
    points = [(r['images'], r[turn]) for r in results if r['place'] == place]
    axis.plot(*zip(*points, strict=True), style, label=label)
  axis.set(xscale='log', yscale='log', xlabel='images of 256 x 256', ylabel='ms an image')
  axis.grid(alpha=0.3)
  axis.legend()
  figure.tight_layout()
  figure.savefig(path)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', type=int, nargs='+', default=[1000, 10_000, 100_000])
  parser.add_argument('--host-most', type=int, default=30_000, help='images held in memory')
  parser.add_argument('--scratch', type=Path, default=Path('/tmp'))
  parser.add_argument('--compute', type=float, default=50, help='milliseconds of a step')
  parser.add_argument('--plot', type=Path)
  parser.add_argument('--features', metavar='BACKBONE', help='features in place of images')
  parser.add_argument('--one', nargs=2, metavar=('PLACE', 'IMAGES'), help='a single line')
  options = parser.parse_args()
  if options.one:
    place, number = options.one[0], int(options.one[1])
    found = measure(place, number, options.scratch, options.compute / 1e3)
    print(json.dumps(found), flush=True)
    return
  if options.features:
    print(measure_features(options.features, options.sizes[0], options.scratch))
    return
  results = []
  for number in options.sizes:
    for place in ('host', 'disk'):
      if place == 'host' and number > options.host_most:
        continue
      command = [sys.executable, __file__, f'--scratch={options.scratch}']
      command += [f'--compute={options.compute}', '--one', place, str(number)]
      done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
      results.append(json.loads(done.stdout.splitlines()[-1]))
      print(results[-1], file=sys.stderr, flush=True)
  print(table(results))
  if options.plot:
    plot(results, options.plot)


if __name__ == '__main__':
  main()
