"""The scoring as an ONNX model, converted by jax2onnx and checked in each runtime."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memkd_jax.deploy.runtimes import METADATA_KEY, Program, installed, open_model
from memkd_jax.detector import Detector
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.ops import portable

# Of float32 maps whose largest value is 1.
_TOLERANCE, _TOLERANCE_OF_HALF = 1e-4, 1e-2
# The opset, 2024's, that onnxruntime has run since 1.18.
_OPSET = 21
# Parameters of fewer numbers stay in float32.
_FEW = 1024
# What onnxruntime and OpenVINO both run: those that the methods need, and others as plain. No
# loops, and nothing that one of them alone knows.
_OPERATORS = """
  Abs Add And ArgMax ArgMin Cast Clip Concat Conv Div Einsum Equal Exp Expand Gather GatherND
  Gemm Greater Identity Less Log MatMul Max MaxPool Min Mul Neg Not Or Pad Pow ReduceL2
  ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Shape
  Sigmoid Slice Softmax Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze Where
"""


def write(
  detector: Detector,
  out: Path,
  metadata: dict[str, Any],
  batch: int | None = None,
  half: bool = False,
) -> dict[str, float]:
  """Writes the model with its parameters as one file, complete or not at all.

  Args:
    detector: the detector that is exported, of compute dtype float32.
    out: the file; one that is there is replaced.
    metadata: JSON values, kept in the model's metadata as 'memkd_jax'.
    batch: the number of images that it takes; any if None.
    half: whether parameters are kept in float16, in half the bytes; all is computed in
      float32 still.

  Returns:
    By how much maps and scores differ from the detector's at most, for random images, by what
    ran the file: each runtime that is installed, and OpenVINO as it computes by default.

  Raises:
    UserError: jax2onnx or onnxruntime is not installed, the model does not compute in
      float32 or with the operators that runtimes have in common, or the programs disagree.
    OSError: it cannot be written.
  """
  dtype = detector.trained.config.model.dtype
  if dtype != 'float32':
    raise UserError(
      f'A model of --config.model.dtype={dtype} cannot be written as ONNX, whose convolutions '
      'take float32 alone; name another file with --out, or train with float32.'
    )
  try:
    import onnxruntime  # noqa: F401
    from jax2onnx import to_onnx
  except ImportError as error:
    raise UserError(
      f"Writing ONNX needs {error.name}, which is not installed: pip install 'memkd_jax[onnx]'."
    ) from error
  # It warns of each shape's type, which serialisation leaves out with no harm.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)
  with portable.operations():
    model = to_onnx(
      detector.score,
      [jax.ShapeDtypeStruct((batch or 'B', *detector.tile_shape), np.uint8)],
      model_name=f'memkd_jax {detector.category}',
      opset=_OPSET,
      input_names=['images'],
      output_names=['maps', 'scores'],
    )
  if half:
    _halve(model.graph)
  _check_operators(model.graph.node)
  entry = model.metadata_props.add()
  entry.key = METADATA_KEY
  entry.value = json.dumps(metadata, allow_nan=False)
  content = model.SerializeToString()
  tolerance = _TOLERANCE_OF_HALF if half else _TOLERANCE
  differences = {
    name: _difference(detector, open_model(content, name), batch, tolerance)
    for name in installed()
  }
  if 'openvino' in differences:
    loose = open_model(content, 'openvino', exact=False)
    differences['openvino by default'] = _difference(detector, loose, batch, np.inf)
  with atomic.atomic_write(out) as temporary:
    temporary.write_bytes(content)
  return differences


def _halve(graph: Any) -> None:
  """Keeps large parameters in float16, each with a cast to float32 behind it."""
  from onnx import TensorProto, helper, numpy_helper

  casts = []
  for tensor in graph.initializer:
    # Few are worth nothing, and what float16 does not hold stays.
    if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _FEW:
      continue
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max() > np.finfo(np.float16).max:
      continue
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f'{name}_half'))
    casts.append(helper.make_node('Cast', [tensor.name], [name], to=TensorProto.FLOAT))
  nodes = [*casts, *graph.node]
  del graph.node[:]
  graph.node.extend(nodes)


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


def _difference(
  detector: Detector, program: Program, batch: int | None, tolerance: float
) -> float:
  """By how much a program's maps and scores differ; raises UserError where by too much.

  Args:
    detector: the detector that maps and scores are compared with.
    program: the exported model in a runtime.
    batch: the number of images that it takes; any if None.
    tolerance: the largest difference that is let pass, for maps whose highest value is 1.
  """
  shape, worst = detector.tile_shape, 0.0
  for number in (1, 3) if batch is None else (batch,):
    images = np.random.default_rng(number).integers(0, 256, (number, *shape), np.uint8)
    found = program.run(images)
    steps = range(0, number, detector.batch_size)
    parts = [detector.score_tiles(images[i : i + detector.batch_size]) for i in steps]
    expected = [np.concatenate(part) for part in zip(*parts, strict=True)]
    scale = max(1.0, float(np.abs(expected[0]).max()))
    here = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
    if not here <= tolerance * scale:
      raise UserError(
        f'{program.device} computes maps that differ from those of JAX by {here:.2g}, more '
        f'than {tolerance * scale:.2g}; nothing was written. Export a .memkd file instead.'
      )
    worst = max(worst, float(here))
  return worst
