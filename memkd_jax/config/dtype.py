"""What `model.dtype=auto` stands for: bfloat16 where it pays.

On GPUs and TPUs that is known. On a CPU it is up to the processor's instructions and to
whether XLA calls the library that uses them (`runtime.onednn`), so it is measured.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from memkd_jax.files import atomic
from memkd_jax.ops.convolution import convolution
from memkd_jax.runtime import compile_cache

# Whole models gain more than the convolution that is measured, of which float32 saves most
# (see `ops.winograd`); less than this is within what measuring takes in.
_ENOUGH = 1.1
_TURNS = 10
# GPUs from Ampere on multiply bfloat16 faster than float32.
_CAPABILITY = 8.0


def speedup() -> float | None:
  """How many times as fast as in float32 a convolution and its gradients are in bfloat16.

  On a CPU it is measured the first time, which takes some seconds for compiling, and kept by
  kind of processor, number of cores, release of JAX and flags.

  Returns:
    None on an accelerator, where it is known without: see `choose`.
  """
  if jax.default_backend() != 'cpu':
    return None
  file = compile_cache.default_directory() / 'bfloat16.json'
  key = _key()
  kept = _read(file)
  if key is not None and key in kept:
    return kept[key]
  found = _measure()
  if key is not None:
    with contextlib.suppress(OSError):  # it is measured again next time
      atomic.write_json(file, kept | {key: found})
  return found


def choose() -> tuple[str, str]:
  """The dtype that a model is to have on the devices that there are, and why."""
  ratio = speedup()
  if ratio is not None:
    why = f'{ratio:.1f} times as fast as float32 here'
    return ('bfloat16' if ratio >= _ENOUGH else 'float32'), f'bfloat16 is {why}'
  device = jax.local_devices()[0]
  if device.platform == 'tpu' or _capability(device) >= _CAPABILITY:
    return 'bfloat16', f'a {device.device_kind} multiplies it fastest'
  return 'float32', f'it is not known that a {device.device_kind} gains from bfloat16'


def _capability(device: jax.Device) -> float:
  """CUDA's, of a GPU of NVIDIA; 0 of others, which have none or name a chip."""
  try:
    return float(getattr(device, 'compute_capability', 0))
  except (TypeError, ValueError):
    return 0.0


def _measure() -> float:
  runs = {dtype: _work(dtype) for dtype in ('float32', 'bfloat16')}
  times: dict[str, list[float]] = {dtype: [] for dtype in runs}
  for _ in range(_TURNS):  # in turns, for the machine may be at other work
    for dtype, run in runs.items():
      begin = time.perf_counter()
      run()
      times[dtype].append(time.perf_counter() - begin)
  return float(np.median(times['float32']) / np.median(times['bfloat16']))


def _work(dtype: str) -> Callable[[], Any]:
  """A convolution of the middle of a network, with its gradients, which it gives; compiled."""
  generator = np.random.default_rng(0)
  inputs = generator.standard_normal((8, 32, 32, 128)).astype(dtype)
  kernel = generator.standard_normal((3, 3, 128, 128)).astype(dtype)

  def both(inputs: jax.Array, kernel: jax.Array) -> Any:
    layout = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    convolve = functools.partial(
      convolution, strides=(1, 1), padding=((1, 1), (1, 1)), dimension_numbers=layout
    )
    outputs, back = jax.vjp(convolve, inputs, kernel)
    return back(outputs)

  compiled = jax.jit(both).lower(inputs, kernel).compile()

  def run() -> Any:
    return jax.block_until_ready(compiled(inputs, kernel))

  run()
  return run


def _key() -> str | None:
  """What the speed depends on; None where the processor cannot be told."""
  processor = compile_cache.processor()
  if processor is None:
    return None
  flags = hashlib.sha256(os.environ.get('XLA_FLAGS', '').encode()).hexdigest()[:8]
  cores = len(os.sched_getaffinity(0))
  return f'{processor} {cores} cores, jax {jax.__version__}, flags {flags}'


def _read(file: Path) -> dict[str, float]:
  try:
    kept = json.loads(file.read_text(encoding='utf-8'))
    return {str(key): float(value) for key, value in kept.items()}
  except (OSError, ValueError, AttributeError, TypeError):
    return {}  # it is made anew
