"""Times training and inference, turn by turn with PyTorch where it is wanted.

  python tools/benchmark.py --backbones=resnet18 --against=torch
  python tools/benchmark.py --backbones=wide_resnet50_2 --batch_size=8 --out=speed.json
  python tools/benchmark.py --against=scikit-learn,torch

The last times the coreset and the nearest neighbours instead, see `benchmark_neighbours`.
Figures are medians over repetitions in which every candidate has its turn, after one call
that does not count; ratios are of the same run. Others have a process of their own, so that
neither side's threads are in the other's way. Weights are random: speed does not depend on
them. Stop other work on the machine first.
"""

from memkd_jax.runtime import huge_pages

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # as memkd_jax.main does

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from benchmark_neighbours import compare
from turns import Candidate, OtherProcess, Works, take_turns, timed

from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic
from memkd_jax.methods.base import Task
from memkd_jax.report.results import markdown
from memkd_jax.runtime.devices import Devices
from memkd_jax.scoring.pipeline import Pipeline
from memkd_jax.teachers.extractor import FeatureExtractor

_BACKBONES = flags.DEFINE_list('backbones', ['resnet18'], 'Names.')
_PARADIGMS = flags.DEFINE_list('paradigms', ['reverse'], 'reverse, forward.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Images, of all devices together.')
_SIZE = flags.DEFINE_integer('size', 256, 'Side of the images in pixels.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', base.DTYPES, 'Compute dtype of ours.')
_MEMORIES = flags.DEFINE_bool('memories', True, 'With memories, or the baseline.')
_REPETITIONS = flags.DEFINE_integer('repetitions', 5, 'Turns of each candidate.')
_SECONDS = flags.DEFINE_float('seconds', 5.0, 'A turn lasts about so long.')
_AGAINST = flags.DEFINE_list(
  'against', [], 'The other side: torch or torch_compile; or scikit-learn,torch.'
)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the figures.')
_OTHERS = ('torch', 'torch_compile', 'scikit-learn')
flags.register_validator(
  'against', lambda names: set(names) <= set(_OTHERS), f'give some of {", ".join(_OTHERS)}'
)


def latencies(run: Callable[[], Any], number: int = 40) -> dict[str, float]:
  """Milliseconds of single calls: the median, and what 95 of 100 stay below."""
  run()
  times = []
  for _ in range(number):
    begin = time.perf_counter()
    run()
    times.append(1000 * (time.perf_counter() - begin))
  return {'p50_ms': float(np.quantile(times, 0.5)), 'p95_ms': float(np.quantile(times, 0.95))}


def measure_peak(dtype: str, side: int = 4096, repetitions: int = 5) -> float:
  """FLOP per second of a large matrix product, the most that the machine gives."""
  a = jnp.ones((side, side), dtype)
  product = jax.jit(lambda a, b: a @ b)
  product(a, a).block_until_ready()
  times = []
  for _ in range(repetitions):
    begin = time.perf_counter()
    product(a, a).block_until_ready()
    times.append(time.perf_counter() - begin)
  return 2 * side**3 / min(times)


def our_candidates(backbone: str, paradigm: str, images: np.ndarray) -> list[Candidate]:
  """Training with known and with recomputed teacher features, and inference."""
  size, devices = _BATCH_SIZE.value, Devices()
  extractor = FeatureExtractor(backbone, base.RANDOM_TEACHER, _DTYPE.value)
  task = Task.of_category('benchmark', seed=0)
  candidates = []
  for cache in ('auto', 'off'):
    config = make_config(backbone, paradigm, cache)
    method = methods.create(config, extractor, devices)
    trainer = method.trainer
    data, rng = trainer.feature_cache(images), np.random.default_rng(0)

    def draw(trainer: Any = trainer, data: Any = data, rng: Any = rng) -> Any:
      batch, exemplars = rng.integers(0, len(images), (2, size))
      return trainer.inputs(data, batch, exemplars)

    holder = [devices.replicate(trainer.init_state(task, images))]
    begin = time.perf_counter()
    program = trainer.train_step.lower(holder[0], *draw()).compile()
    facts = {'compile_s': time.perf_counter() - begin, **memory_of(program)}

    def train(trainer: Any = trainer, holder: Any = holder, draw: Any = draw) -> None:
      holder[0], terms = trainer.train_step(holder[0], *draw())
      jax.block_until_ready(terms)

    name = 'ours, train' if cache == 'auto' else 'ours, train, teacher recomputed'
    candidates.append(Candidate(name, size, timed(train), flop_of(program), facts))
  params = devices.replicate(trainer.fold(devices.unreplicate(holder[0])))
  teacher_params = devices.replicate(extractor.params)
  pipeline = Pipeline(extractor, method, **config.anomaly_map.to_dict())
  score = devices.map(pipeline.score)

  def infer(batch: np.ndarray = images[:size]) -> None:
    jax.device_get(score(params, teacher_params, devices.shard(batch)))

  begin = time.perf_counter()
  program = score.lower(params, teacher_params, devices.shard(images[:size])).compile()
  facts = {'compile_s': time.perf_counter() - begin, **memory_of(program)}
  if len(devices) == 1:
    facts |= latencies(lambda: infer(images[:1]))
  candidates.append(Candidate('ours, inference', size, timed(infer), flop_of(program), facts))
  return candidates


def make_config(backbone: str, paradigm: str, cache: str) -> Any:
  """The paper's model with random weights."""
  config = methods.get_config()
  config.data.image_size = _SIZE.value
  config.model.backbone = backbone
  config.model.paradigm = paradigm
  config.model.teacher_weights = base.RANDOM_TEACHER
  config.model.m3_target = 'embedding'  # as the PyTorch model does
  config.model.dtype = _DTYPE.value
  config.model.memories = (1, 2, 3) if _MEMORIES.value else ()
  config.train.batch_size = _BATCH_SIZE.value
  config.train.exemplars = _BATCH_SIZE.value
  config.train.cache_features = cache
  config.eval.batch_size = _BATCH_SIZE.value
  return methods.resolve(config)


def flop_of(program: Any) -> float | None:
  """Of one call, as XLA counts them."""
  analysis = program.cost_analysis()
  return float(analysis['flops']) if analysis and 'flops' in analysis else None


def memory_of(program: Any) -> dict[str, float]:
  """Megabytes that a program needs beside its arguments."""
  analysis = program.memory_analysis()
  return {'temporary_MB': analysis.temp_size_in_bytes / 1e6} if analysis else {}


def torch_candidates(backbone: str, images: np.ndarray, compiled: bool) -> list[Candidate]:
  """The same work in PyTorch, in a process of its own."""
  size = _BATCH_SIZE.value
  items = methods.get_config().model.memory_items if _MEMORIES.value else 0
  process = OtherProcess('torch', _torch_works, backbone, items, images[:size], compiled)
  name = 'torch.compile' if compiled else 'torch'
  return [
    Candidate(f'{name}, {work}', size, process.seconds(work)) for work in ('train', 'inference')
  ]


def _torch_works(backbone: str, items: int, images: np.ndarray, compiled: bool) -> Works:
  import torch
  import torch_rd

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = torch_rd.Distillation(backbone, items, images.shape[1], device, compiled)
  batch = torch.from_numpy(images)
  return {
    'train': lambda: model.train_step(batch, batch),
    'inference': lambda: model.score(batch),
  }


def report(
  candidates: list[Candidate], rates: dict[str, list[float]], peak: float
) -> list[dict[str, Any]]:
  """A line of figures for each candidate; ratios against the other side's same work."""
  medians = {name: statistics.median(values) for name, values in rates.items()}
  lines = []
  for candidate in candidates:
    line: dict[str, Any] = {
      'name': candidate.name,
      'images_per_second': medians[candidate.name],
    }
    line['turns'] = rates[candidate.name]
    if candidate.flop is not None:
      # XLA counts what one device does.
      per_image = candidate.flop * len(jax.devices()) / candidate.items
      line['gflop_per_image'] = per_image / 1e9
      line['share_of_peak'] = per_image * medians[candidate.name] / peak / len(jax.devices())
    work = 'train' if 'train' in candidate.name else 'inference'
    for other in (f'torch, {work}', f'torch.compile, {work}'):
      if candidate.name.startswith('ours') and other in medians:
        line['ratio'] = medians[candidate.name] / medians[other]
    lines.append(line | candidate.facts)
  return lines


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  try:
    figures = _run()
    if _OUT.value:
      atomic.write_json(_OUT.value, figures)
  except (UserError, OSError) as error:
    sys.exit(f'benchmark: {explain(error)}')


def _run() -> dict[str, Any]:
  peak = measure_peak('bfloat16' if _DTYPE.value == 'bfloat16' else 'float32')
  device = jax.devices()[0]
  print(
    f'{len(jax.devices())} x {device.device_kind}, {platform.machine()}, jax {jax.__version__}'
  )
  print(f'peak of a matrix product: {peak / 1e9:,.0f} GFLOP/s\n')
  figures: dict[str, Any] = {'peak_flops': peak, 'device': device.device_kind}
  if 'scikit-learn' in _AGAINST.value:
    figures |= compare(_AGAINST.value, _take_turns)
  else:
    figures['runs'] = _distillation(peak)
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  figures['peak_host_MB'] = rss / 1024
  print(f'peak memory of this process: {rss / 1024:,.0f} MB')
  return figures


def _take_turns(candidates: list[Candidate]) -> dict[str, list[float]]:
  return take_turns(candidates, _REPETITIONS.value, _SECONDS.value)


def _distillation(peak: float) -> list[dict[str, Any]]:
  """Times training and inference of each backbone and paradigm, and prints a table of each."""
  shape = (max(4 * _BATCH_SIZE.value, 32), _SIZE.value, _SIZE.value, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  runs = []
  for backbone in _BACKBONES.value:
    for paradigm in _PARADIGMS.value:
      candidates = our_candidates(backbone, paradigm, images)
      if _AGAINST.value and paradigm == 'reverse':
        candidates += torch_candidates(backbone, images, 'torch_compile' in _AGAINST.value)
      lines = report(candidates, _take_turns(candidates), peak)
      print(f'{backbone}, {paradigm}, {_SIZE.value} pixels, batch {_BATCH_SIZE.value}')
      print(_table(lines) + '\n', flush=True)
      run = {'backbone': backbone, 'paradigm': paradigm, 'candidates': lines}
      runs.append(
        run | {'flags': json.loads(json.dumps(flags.FLAGS.flag_values_dict(), default=str))}
      )
  return runs


def _table(lines: list[dict[str, Any]]) -> str:
  columns = {
    'images_per_second': ('img/s', '{:.2f}'),
    'ratio': ('against torch', '{:.2f}x'),
    'gflop_per_image': ('GFLOP/img', '{:.1f}'),
    'share_of_peak': ('of peak', '{:.0%}'),
    'compile_s': ('compile s', '{:.1f}'),
    'temporary_MB': ('temporary MB', '{:.0f}'),
    'p50_ms': ('one image, p50 ms', '{:.0f}'),
    'p95_ms': ('p95 ms', '{:.0f}'),
  }
  used = [key for key in columns if any(key in line for line in lines)]
  rows = [
    [line['name'], *(columns[k][1].format(line[k]) if k in line else '' for k in used)]
    for line in lines
  ]
  return markdown(['', *(columns[key][0] for key in used)], rows)


if __name__ == '__main__':
  app.run(main)
