"""Checksums of values, arrays and images, and whether a result.json is what was written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from memkd_jax.files.stored_rows import Rows

DIGEST = 'sha256'
_ROUNDING = 1e-9


def digest(result: dict[str, Any]) -> str:
  """The sha256 of a JSON object, in hexadecimal, whatever the order of its keys.

  Args:
    result: JSON values by name; the checksum that is among them is left out.
  """
  unsigned = {name: value for name, value in result.items() if name != DIGEST}
  return hashlib.sha256(json.dumps(unsigned, sort_keys=True).encode()).hexdigest()


def tree_digest(tensors: Mapping[str, np.ndarray]) -> str:
  """The sha256 of named arrays, in hexadecimal, whatever their order.

  Args:
    tensors: arrays of any shape and dtype; their names, dtypes, shapes and values all count,
      their layout in memory does not.
  """
  found = hashlib.sha256()
  for name, tensor in sorted(tensors.items()):
    found.update(f'{name} {tensor.dtype} {tensor.shape}\n'.encode())
    found.update(tensor.tobytes())
  return found.hexdigest()


def images_digest(images: np.ndarray) -> str:
  """The sha256 of images in their order, in hexadecimal.

  Args:
    images: uint8 [N, H, W, 3], or objects [N] that are [H, W, 3] each; of the values alone,
      not of the shapes.
  """
  rows: Any = images
  if isinstance(rows, Rows):
    return rows.digest
  found = hashlib.sha256()
  for image in images:
    found.update(np.ascontiguousarray(image).data)
  return found.hexdigest()


def check_result(result: Any) -> dict[str, Any]:
  """Checks what was read from a result.json.

  Args:
    result: the JSON value that was read.

  Returns:
    The same without its checksum: 'metrics' {name: 0..1}, 'counts' {name: whole
    number}, perhaps 'notes' [sentence] and others.

  Raises:
    ValueError: it is something else, or not what was written.
  """
  if not isinstance(result, dict):
    raise ValueError('it is no JSON object')
  # Files of the first version have no checksum.
  if DIGEST in result and result[DIGEST] != digest(result):
    raise ValueError('its checksum is wrong')
  metrics: Any = result.get('metrics')
  counts: Any = result.get('counts')
  notes: Any = result.get('notes')
  if not _is_table(metrics, (int, float)) or not all(
    -_ROUNDING <= v <= 1 + _ROUNDING for v in metrics.values()
  ):
    raise ValueError('its metrics are not numbers from 0 to 1')
  if not _is_table(counts, (int,)) or not all(v >= 0 for v in counts.values()):
    raise ValueError('its counts are not whole numbers')
  if notes is not None and not (
    isinstance(notes, list) and all(isinstance(note, str) for note in notes)
  ):
    raise ValueError('its notes are not sentences')
  return {name: value for name, value in result.items() if name != DIGEST}


def _is_table(value: Any, types: tuple[type, ...]) -> bool:
  return isinstance(value, dict) and all(type(v) in types for v in value.values())
