"""Times training and inference, turn by turn with others where that is wanted.

  python tools/benchmark.py --backbones=resnet18 --against=torch
  python tools/benchmark.py --dtypes=float32,bfloat16 --against=torch,torch_compile_bfloat16
  python tools/benchmark.py --against=onnxruntime,openvino,openvino_default --out=speed.json
  python tools/benchmark.py --against=scikit-learn,torch

The last times the coreset and the nearest neighbours instead, see `benchmark_neighbours`.
Figures are medians over repetitions in which every candidate has its turn, after one call
that does not count; ratios are of the same run. Others have a process of their own, so that
neither side's threads are in the other's way. A candidate that fails is named and left out.
Calls of a training, and those that leave everything on the device, are waited for at the end
of a turn, on all sides. Weights are random: speed does not depend on them. Stop other work on
the machine first.
"""

import os

from memkd_jax.runtime import huge_pages, onednn

if __name__ == '__main__':
  huge_pages.restart_with_huge_pages()  # as memkd_jax.main does
  # JAX would take three quarters of a GPU's memory, in which others compute as well.
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.5')

import json
import platform
import resource
import sys
from typing import Any

import benchmark_ours
import benchmark_report
import energy
import jax
import numpy as np
import peak
from absl import app, flags, logging
from benchmark_neighbours import compare
from benchmark_others import RUNTIMES, TORCH, candidates, start
from benchmark_ours import Setup
from other_process import OtherProcess
from turns import Candidate, attempt, take_turns

from memkd_jax import config as base
from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic
from memkd_jax.training.feature_cache import CACHES

_BACKBONES = flags.DEFINE_list('backbones', ['resnet18'], 'Names.')
_PARADIGMS = flags.DEFINE_list('paradigms', ['reverse'], 'reverse, forward.')
_KNOWN = (base.AUTO_DTYPE, *base.DTYPES)
_DTYPES = flags.DEFINE_list('dtypes', ['float32'], f'Of ours: {", ".join(_KNOWN)}.')
_CACHES = flags.DEFINE_list('cache_features', ['auto', 'off'], 'Trainings of ours.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 16, 'Images, of all devices together.')
_SIZE = flags.DEFINE_integer('size', 256, 'Side of the images in pixels.')
_MEMORIES = flags.DEFINE_bool('memories', True, 'With memories, or the baseline.')
_REPETITIONS = flags.DEFINE_integer('repetitions', 5, 'Turns of each candidate.')
_SECONDS = flags.DEFINE_float('seconds', 5.0, 'A turn lasts about so long.')
_OTHERS = (*TORCH, *RUNTIMES, 'scikit-learn')
_AGAINST = flags.DEFINE_list(
  'against', [], f'Other sides: some of {", ".join(_OTHERS)}; the last with torch alone.'
)
_TOGETHER = flags.DEFINE_bool(
  'compile_together',
  False,
  'All sides compile at the same time: sooner, but those who choose their kernels by trying '
  'them out may choose worse.',
)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the figures.')


def _some_of(flag: str, known: tuple[str, ...]) -> None:
  flags.register_validator(
    flag, lambda names: set(names) <= set(known), f'give some of {", ".join(known)}'
  )


_some_of('against', _OTHERS)
_some_of('dtypes', _KNOWN)
_some_of('cache_features', CACHES)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  logging.set_verbosity(logging.WARNING)
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # tables as they come
  try:
    figures = _run()
    if _OUT.value:
      atomic.write_json(_OUT.value, figures)
  except (UserError, OSError) as error:
    sys.exit(f'benchmark: {explain(error)}')


def _run() -> dict[str, Any]:
  onednn.ask_for_it(*_DTYPES.value)
  device = jax.devices()[0]
  kind = f'{len(jax.devices())} x {device.device_kind}, {platform.machine()}'
  print(f'{kind}, jax {jax.__version__}\n')
  figures: dict[str, Any] = {'device': device.device_kind}
  if 'scikit-learn' in _AGAINST.value:
    figures |= compare(_AGAINST.value, _rates)
  else:
    figures['runs'] = _distillations()
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  figures['peak_host_MB'] = rss / 1024
  print(f'peak memory of this process: {rss / 1024:,.0f} MB')
  return figures


def _rates(compared: list[Candidate]) -> dict[str, list[float]]:
  turns = take_turns(compared, _REPETITIONS.value, _SECONDS.value)
  return {name: [turn.rate for turn in taken] for name, taken in turns.items()}


def _distillations() -> list[dict[str, Any]]:
  """Times each backbone and paradigm, and prints the tables of each as soon as it is done."""
  counted = energy.find(jax.default_backend() == 'gpu')
  print(
    f'energy: of {counted[0]}.\n'
    if counted
    else 'energy: no counter can be read here, so there is no column of it.\n'
  )
  runs = []
  for backbone in _BACKBONES.value:
    for paradigm in _PARADIGMS.value:
      setup = Setup(
        backbone,
        paradigm,
        _SIZE.value,
        _BATCH_SIZE.value,
        _MEMORIES.value,
        tuple(_CACHES.value),
      )
      print(f'{backbone}, {paradigm}, {setup.size} pixels, batch {setup.batch}')
      run = {'backbone': backbone, 'paradigm': paradigm} | _time(setup, counted)
      runs.append(
        run | {'flags': json.loads(json.dumps(flags.FLAGS.flag_values_dict(), default=str))}
      )
  return runs


def _time(setup: Setup, counted: tuple[str, energy.Counter] | None) -> dict[str, Any]:
  """Figures of all candidates of one model."""
  shape = (max(4 * setup.batch, 32), setup.size, setup.size, 3)
  images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  # The PyTorch model, and the exported file, are of the reverse paradigm.
  others = _start(setup, images) if setup.paradigm == 'reverse' else {}
  try:
    found: list[Candidate] = []
    for dtype in _DTYPES.value:
      made = attempt(f'ours, {dtype}', benchmark_ours.candidates, setup, dtype, images)
      found += made or []
    dtypes = dict.fromkeys(candidate.dtype for candidate in found)
    versions = {}
    for key, process in others.items():
      if about := attempt(key, process.result, 'about'):
        found += candidates(process, about)
        versions[about.side] = about.version
        print(f'{about.side}: {about.version}')
    peaks = _peaks(list(dtypes), others)
    counter = counted[1] if counted else None
    turns = take_turns(found, _REPETITIONS.value, _SECONDS.value, counter)
  finally:
    for process in others.values():
      process.close()
  lines = benchmark_report.figures(found, turns, peaks, len(jax.devices()))
  ratios = benchmark_report.ratios(lines)
  print('\n' + benchmark_report.table(lines) + '\n')
  if ratios:
    print(benchmark_report.ratio_table(ratios) + '\n')
  named = {f'{who}, {dtype}': value for (who, dtype), value in peaks.items()}
  return {'versions': versions, 'peak_flops': named, 'candidates': lines, 'ratios': ratios}


def _start(setup: Setup, images: np.ndarray) -> dict[str, OtherProcess]:
  """The processes of the other sides, ready or, with --compile_together, on the way."""
  found = {}
  for key in _AGAINST.value:
    process = attempt(key, start, key, setup, images[: setup.batch])
    if process and (_TOGETHER.value or attempt(key, process.result, 'about')):
      found[key] = process
  return found


def _peaks(dtypes: list[str], others: dict[str, OtherProcess]) -> dict[tuple[str, str], float]:
  """FLOP per second of a large matrix product, by who measured it and dtype."""
  peaks = {('JAX', dtype): peak.of_jax(dtype) for dtype in dtypes}
  for key in TORCH:
    name = 'PyTorch', TORCH[key][0]
    if key in others and name not in peaks:
      peaks[name] = attempt(f'peak of {key}', others[key].result, 'peak') or 0.0
  for (who, dtype), value in peaks.items():
    print(f'peak of a matrix product, {who}, {dtype}: {value / 1e9:,.0f} GFLOP/s')
  return peaks


if __name__ == '__main__':
  app.run(main)
