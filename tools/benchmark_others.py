"""What others do of the same work: PyTorch, and what runs the exported file."""

import importlib.metadata
from typing import Any, NamedTuple

import numpy as np
from benchmark_ours import INFERENCE, ON_DEVICE, ONE, TRAIN, Setup, onnx_works
from other_process import OtherProcess, Works
from turns import Candidate, Queued

# The sides of PyTorch: dtype, and whether torch.compile is asked.
TORCH = {
  'torch': ('float32', False),
  'torch_bfloat16': ('bfloat16', False),
  'torch_compile': ('float32', True),
  'torch_compile_bfloat16': ('bfloat16', True),
}
# Those of the file: the runtime, whether it is to compute in float32, and its name.
RUNTIMES = {
  'onnxruntime': ('onnxruntime', True, 'onnxruntime'),
  'openvino': ('openvino', True, 'OpenVINO'),
  'openvino_default': ('openvino', False, 'OpenVINO by default'),
}


class About(NamedTuple):
  """What a side's process says of itself.

  Attributes:
    side: its name in the tables.
    version: of what computes, and where it does.
    dtype: that it computes in; '' where that is not known.
    items: of each work that it does.
  """

  side: str
  version: str
  dtype: str
  items: dict[str, int]


def start(key: str, setup: Setup, images: np.ndarray) -> OtherProcess:
  """Starts the process of a side, which gets ready by itself.

  Args:
    key: of `TORCH` or `RUNTIMES`.
    setup: what is timed.
    images: uint8 [B, S, S, 3], the batch.

  Raises:
    UserError: what it needs is not installed, or there is no file to run.
  """
  if key in TORCH:
    return OtherProcess('torch', torch_works, setup, images, *TORCH[key])
  runtime, exact, side = RUNTIMES[key]
  process = OtherProcess(runtime, runtime_works, _content(setup), images, runtime, exact, side)
  return process


def candidates(process: OtherProcess, about: About) -> list[Candidate]:
  """All that a side does; `about` is the result of its process."""
  return [
    Candidate(work, about.side, items, process.times(work), about.dtype)
    for work, items in about.items.items()
  ]


_exported: dict[Setup, bytes] = {}


def _content(setup: Setup) -> bytes:
  """The exported file; of one model for all runtimes."""
  if setup not in _exported:
    _exported.clear()
    process = OtherProcess('jax2onnx', onnx_works, setup)
    try:
      _exported[setup] = process.result('content')
    finally:
      process.close()
  return _exported[setup]


def torch_works(setup: Setup, images: np.ndarray, dtype: str, compiled: bool) -> Works:
  """Those of one PyTorch model, on the GPU if there is one; compiled, where it is, before.

  Args:
    setup: what is timed.
    images: uint8 [B, S, S, 3].
    dtype: 'float32', or 'bfloat16' for autocast.
    compiled: whether torch.compile is asked.
  """
  import torch
  import torch_rd

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch_rd.prefer_speed(device)
  model = torch_rd.Distillation(
    setup.backbone, setup.items, setup.size, device, dtype, compiled
  )
  batch = torch.from_numpy(images)
  side = 'torch.compile' if compiled else 'torch'
  if dtype == 'bfloat16':
    side += ', bfloat16'
  elif device == 'cuda':
    side += ', TF32'
  if device == 'cuda':
    batch = batch.pin_memory()
  there = batch.to(device)

  def wait() -> None:
    if device == 'cuda':
      torch.cuda.synchronize()

  works: Works = {
    TRAIN: Queued(lambda: model.train_step(batch, batch), wait),
    INFERENCE: lambda: model.score(batch),
    ONE: lambda: model.score(batch[:1]),
  }
  if device == 'cuda':
    works[ON_DEVICE] = Queued(lambda: model.score_on_device(there), wait)
  for run in works.values():
    run()
  place = torch.cuda.get_device_name() if device == 'cuda' else 'CPU'
  version = f'torch {torch.__version__}, {place}, {torch.get_num_threads()} threads'
  items = {work: 1 if work == ONE else len(images) for work in works}
  return works | {
    'about': lambda: About(side, version, dtype, items),
    'peak': lambda: torch_rd.measure_peak(device, dtype),
  }


def runtime_works(
  content: bytes, images: np.ndarray, runtime: str, exact: bool, side: str
) -> Works:
  """Inference of the exported file.

  Args:
    content: of the file.
    images: uint8 [B, S, S, 3].
    runtime: see `deploy.runtimes.open_model`.
    exact: whether to compute in float32, whatever is faster.
    side: its name in the tables.
  """
  from memkd_jax.deploy.runtimes import open_model

  program = open_model(content, runtime, exact)
  version = f'{runtime} {importlib.metadata.version(runtime)}, {program.device}'
  items = {INFERENCE: len(images), ONE: 1}
  about = About(side, version, 'float32' if exact else '', items)
  works: dict[str, Any] = {
    INFERENCE: lambda: program.run(images),
    ONE: lambda: program.run(images[:1]),
  }
  for run in works.values():
    run()
  return works | {'about': lambda: about}
