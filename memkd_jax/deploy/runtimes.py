"""What runs ONNX models: onnxruntime and OpenVINO, whichever is installed."""

import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memkd_jax.errors import UserError

# The entry of the model's metadata that is ours.
METADATA_KEY = 'memkd_jax'
_INSTALL = "pip install 'memkd_jax[onnx]', or 'memkd_jax[openvino]'"


class Program(NamedTuple):
  """A model that a runtime has loaded.

  Attributes:
    run: uint8 [B, H, W, 3] -> (maps float32 [B, H, W], scores float32 [B]).
    metadata: what the exporter wrote, as text; '' where it is no model of ours.
    device: what computes, 'cpu (onnxruntime)' for example.
  """

  run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  metadata: str
  device: str


def _onnxruntime(model: str | bytes, exact: bool) -> Program:
  """On a GPU where this build of onnxruntime has one; it is always exact."""
  import onnxruntime

  wanted = ('CUDAExecutionProvider', 'CPUExecutionProvider')
  there = onnxruntime.get_available_providers()
  session = onnxruntime.InferenceSession(
    model, providers=[name for name in wanted if name in there]
  )
  device = 'gpu' if session.get_providers()[0] == wanted[0] else 'cpu'

  def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps, scores = session.run(['maps', 'scores'], {'images': images})
    return maps, scores

  metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, '')
  return Program(run, metadata, f'{device} (onnxruntime)')


def _openvino(model: str | bytes, exact: bool) -> Program:
  """On the CPU; by itself it computes in bfloat16 where the processor can."""
  core = _import_openvino().Core()
  read = core.read_model(model)
  path = ['framework', METADATA_KEY]
  metadata = read.get_rt_info(path).astype(str) if read.has_rt_info(path) else ''
  hints = {'INFERENCE_PRECISION_HINT': 'f32'} if exact else {}
  # A model gives the thread that compiles it another stack for signals, and the one before back
  # when it goes: of two models that go in their order of coming, one that is gone, and the next
  # signal would end the process. A thread of its own has none before.
  with ThreadPoolExecutor(1) as thread:
    compiled = thread.submit(core.compile_model, read, 'CPU', hints).result()

  def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    results = compiled(images)
    return results['maps'], results['scores']

  return Program(run, metadata, 'cpu (OpenVINO)')


def _import_openvino() -> Any:
  """The package, without the message that its import sends to a web service."""
  name = 'openvino_telemetry'
  kept = sys.modules.get(name)
  sys.modules[name] = None  # type: ignore[assignment] # as if it were not installed
  try:
    return importlib.import_module('openvino')
  finally:
    del sys.modules[name]
    if kept is not None:
      sys.modules[name] = kept


# By what `--runtime` calls them, which is the module's name: the first that is installed.
RUNTIMES: dict[str, Callable[[str | bytes, bool], Program]] = {
  'onnxruntime': _onnxruntime,
  'openvino': _openvino,
}


def installed() -> list[str]:
  """The runtimes that there are."""
  return [name for name in RUNTIMES if importlib.util.find_spec(name)]


def open_model(model: Path | bytes, runtime: str = 'auto', exact: bool = True) -> Program:
  """Loads an ONNX model.

  Args:
    model: the ONNX file of the model, or its content.
    runtime: one of `RUNTIMES`, or 'auto' for the first that is installed.
    exact: whether to compute in float32, for which thresholds are made, whatever is faster.

  Raises:
    UserError: there is no such file, no such runtime, or it cannot read the file.
  """
  there = installed()
  if isinstance(model, Path) and not model.is_file():
    raise UserError(f'There is no model at {model}; name a file that memkd export wrote.')
  if not there:
    raise UserError(f'Running an ONNX model needs onnxruntime or openvino: {_INSTALL}.')
  name = there[0] if runtime == 'auto' else runtime
  if name not in there:
    raise UserError(
      f'--runtime={name} is not installed: pip install {name}, or leave --runtime out, which '
      f'takes {there[0]}.'
    )
  try:
    return RUNTIMES[name](str(model) if isinstance(model, Path) else model, exact)
  except Exception as error:  # what is no ONNX or too new; each runtime has its own kinds
    reason = str(error).strip().splitlines()[-1][:200].rstrip('.')
    what = model if isinstance(model, Path) else 'The model'
    raise UserError(
      f'{what} cannot be read by {name}: {reason}. Export it again '
      '(memkd export --workdir=DIR --out=FILE.onnx).'
    ) from error
