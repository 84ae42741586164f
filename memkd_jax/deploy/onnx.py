"""The scoring as an ONNX model, converted by jax2onnx and checked in onnxruntime."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax.detector import Detector
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.ops import portable

# Of float32 maps whose largest value is 1.
_TOLERANCE = 1e-4
# The opset, 2024's, that onnxruntime has run since 1.18.
_OPSET = 21
_METADATA_KEY = 'memkd_jax'
# What onnxruntime and OpenVINO both run: those that the methods need, and others as plain. No
# loops, and nothing that one of them alone knows.
_OPERATORS = """
  Abs Add And ArgMax ArgMin Cast Clip Concat Conv Div Einsum Equal Exp Expand Gather GatherND
  Gemm Greater Identity Less Log MatMul Max MaxPool Min Mul Neg Not Or Pad Pow ReduceL2
  ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Shape
  Sigmoid Slice Softmax Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze Where
"""


def write(detector: Detector, out: Path, metadata: dict[str, Any]) -> float:
  """Writes the model with its parameters as one file, complete or not at all.

  Args:
    detector: to be exported, of compute dtype float32.
    out: the file; one that is there is replaced.
    metadata: JSON values, kept in the model's metadata as 'memkd_jax'.

  Returns:
    By how much the file's maps differ from the detector's at most, for random images.

  Raises:
    UserError: jax2onnx or onnxruntime is not installed, the model does not compute in
      float32 or with the operators that runtimes have in common, or the two programs
      disagree.
    OSError: it cannot be written.
  """
  dtype = detector.trained.config.model.dtype
  if dtype != 'float32':
    raise UserError(
      f'A model of --config.model.dtype={dtype} cannot be written as ONNX, whose convolutions '
      'take float32 alone; name another file with --out, or train with float32.'
    )
  try:
    import onnxruntime
    from jax2onnx import to_onnx
  except ImportError as error:
    raise UserError(
      f"Writing ONNX needs {error.name}, which is not installed: pip install 'memkd_jax[onnx]'."
    ) from error
  # It warns of each shape's type, which serialisation leaves out with no harm.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  size = detector.image_size
  with portable.operations():
    model = to_onnx(
      detector.score,
      [jax.ShapeDtypeStruct(('B', size, size, 3), np.uint8)],
      model_name=f'memkd_jax {detector.category}',
      opset=_OPSET,
      input_names=['images'],
      output_names=['maps', 'scores'],
    )
  _check_operators(model.graph.node)
  entry = model.metadata_props.add()
  entry.key, entry.value = _METADATA_KEY, json.dumps(metadata, allow_nan=False)
  content = model.SerializeToString()
  session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  difference = _difference(detector, session)
  with atomic.atomic_write(out) as temporary:
    temporary.write_bytes(content)
  return difference


def _check_operators(nodes: Iterable[Any]) -> None:
  """Raises UserError where a runtime cannot be trusted with the operators of a graph."""
  known = _OPERATORS.split()
  unfit = {node.op_type for node in nodes if node.domain or node.op_type not in known}
  # Of three operands OpenVINO multiplies the constant ones first, whose product can take
  # gigabytes, as for matrices that act on both axes of a map.
  products = [len(node.input) for node in nodes if node.op_type == 'Einsum']
  unfit |= {f'Einsum of {number} operands' for number in products if number > 2}
  if unfit:
    raise UserError(
      f'This model as ONNX needs {", ".join(sorted(unfit))}, which not every runtime can run; '
      'nothing was written. Export a .memkd file instead.'
    )


def _difference(detector: Detector, session: Any) -> float:
  size, worst = detector.image_size, 0.0
  for number in (1, 3):
    images = np.random.default_rng(number).integers(0, 256, (number, size, size, 3), np.uint8)
    maps, scores = session.run(['maps', 'scores'], {'images': images})
    expected = detector(images)
    scale = max(1.0, float(np.abs(expected.maps).max()))
    here = max(np.abs(maps - expected.maps).max(), np.abs(scores - expected.scores).max())
    if not here <= _TOLERANCE * scale:
      raise UserError(
        f'onnxruntime computes maps that differ from those of JAX by {here:.2g}, more than '
        f'{_TOLERANCE * scale:.2g}; nothing was written. Export a .memkd file instead.'
      )
    worst = max(worst, float(here))
  return worst
