"""Files of depth: point clouds as TIFF (MVTec 3D-AD), and depth as PNG (Eyecandies)."""

import io
import math
from typing import Any

import numpy as np
import tifffile
import yaml

from memkd_jax.data.decoding import MAX_BYTES, MAX_PIXELS, decode
from memkd_jax.data.sample import Readable
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_stream

_MAX_INFO = 2**16  # bytes of a file of two numbers
_HIGHEST = 65535


def read_cloud(path: Readable) -> np.ndarray:
  """Reads a point cloud.

  Args:
    path: a TIFF file of one page with three floating-point channels, x, y and z of each pixel;
      (0, 0, 0) where nothing was measured. Plain, or deflated.

  Returns:
    float32 or float64 [H, W, 3], in the file's unit, metres as a rule.

  Raises:
    UserError: the file is missing, broken, or something else.
  """
  try:
    with path.open('rb') as stream:
      content = io.BytesIO(read_stream(stream, MAX_BYTES))
    with tifffile.TiffFile(content) as file:
      if len(file.pages) != 1:
        raise ValueError(f'it has {len(file.pages)} pages in place of one')
      page: Any = file.pages[0]
      floating = np.dtype(page.dtype).kind == 'f' and np.dtype(page.dtype).itemsize in (4, 8)
      if len(page.shape) != 3 or page.shape[2] != 3 or not floating:
        raise ValueError(f'it is {page.dtype} {list(page.shape)} in place of float32 [H, W, 3]')
      if math.prod(page.shape[:2]) > MAX_PIXELS:
        raise ValueError(f'it has more than {MAX_PIXELS:,} pixels')
      return np.asarray(page.asarray())
  # tifffile raises nearly anything on broken files.
  except Exception as error:
    raise UserError(
      f'{path} is not a readable point cloud ({_reason(error)}); give a TIFF file with x, y '
      'and z of each pixel, or look at photographs alone with --config.data.inputs=rgb.'
    ) from error


def read_depth(path: Readable, info: Readable) -> np.ndarray:
  """Reads depth, as a point cloud whose x and y are about as large as they are in truth.

  Args:
    path: the file, a PNG of 16 bits.
    info: YAML with the depths that its 0 and 65535 stand for, below `normalization` as `min`
      and `max`.

  Returns:
    float64 [H, W, 3]; z in the unit of these.

  Raises:
    UserError: a file is missing, broken, or something else.
  """
  low, high = _read_range(info)
  try:
    values = np.asarray(decode(path))
    if values.ndim != 2 or values.dtype.kind not in 'iu' or values.max() > _HIGHEST:
      raise ValueError(f'it is {values.dtype} {list(values.shape)} in place of grey of 16 bits')
  # Pillow's plugins raise nearly anything on broken files.
  except Exception as error:
    raise UserError(
      f'{path} is not a readable picture of depth ({_reason(error)}); extract it again.'
    ) from error
  z = low + (high - low) * values / _HIGHEST
  rows, columns = np.mgrid[: z.shape[0], : z.shape[1]].astype(np.float64)
  pitch = float(np.median(np.abs(z))) / max(z.shape)  # of a camera that sees half a right angle
  columns, rows = columns - columns.mean(), rows - rows.mean()
  return np.stack([columns * pitch, rows * pitch, z], axis=-1)


def _read_range(path: Readable) -> tuple[float, float]:
  try:
    with path.open('rb') as stream:
      found = yaml.safe_load(read_stream(stream, _MAX_INFO).decode('utf-8-sig'))
    low, high = (float(found['normalization'][name]) for name in ('min', 'max'))
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
      raise ValueError(f'min {low} and max {high} are no depths')
    return low, high
  except KeyError as error:
    reason = f'it has no {error.args[0]}'
  except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
    reason = _reason(error)
  raise UserError(f'{path} is not a readable range of depths ({reason}); extract it again.')


def _reason(error: Exception) -> str:
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return ' '.join(str(error).split()) or type(error).__name__
