"""Scores anomaly maps that any method has written, at original size.

The maps lie as MVTec's own evaluation expects them, the masks as their publisher
ships them, those of MVTec AD for example:

  MAPS/<category>/test/<defect>/<id>.{tiff,tif,npy}
  DATA/<category>/ground_truth/<defect>/<id>_mask.*
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memkd_jax import metrics
from memkd_jax.data.bit_depth import FULL
from memkd_jax.data.datasets import DATASETS
from memkd_jax.data.decoding import MAX_BYTES, decode, read_size
from memkd_jax.data.masks import decode_mask
from memkd_jax.data.sample import Mask, Sample
from memkd_jax.data.splits import describe_remarks
from memkd_jax.errors import UserError
from memkd_jax.files.reading import read_bytes
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.figures import compute_metrics, object_auroc, over_kinds, saturated
from memkd_jax.scoring.resolution import add_saturated, has_layers

_SUFFIXES = ('.tiff', '.tif', '.npy')
AUPRO_LIMITS = (0.3, 0.05, 0.01)


def score_category(
  maps_root: Path, data_root: Path, category: str, dataset: str = 'folder'
) -> dict[str, Any]:
  """Scores one category; maps are read one by one.

  Args:
    maps_root: the folder MAPS above, in which the maps lie.
    data_root: the folder DATA above, in which the data set lies.
    category: name of the category's folder in both.
    dataset: a name in `datasets.DATASETS`, whose layout `data_root` has.

  Returns:
    {'metrics': the protocol's figures, 'counts', 'aupro': {limit: value},
    'aupimo', 'i_auc_interval': [low, high], 'per_defect': {defect: figures}, 'notes':
    sentences on how masks were read}. The score of an image is the maximum of its map.

  Raises:
    UserError: a map or mask is missing, broken, or of another size, or a metric
      is undefined.
  """
  known = DATASETS[dataset].categories
  if known and category not in known:
    raise UserError(f'{category} is no category of {dataset}; known are {", ".join(known)}.')
  samples = DATASETS[dataset].list_samples(data_root, category, 'test')
  if all(s.mask is None for s in samples):
    raise UserError(f'There are no masks of {category} in {data_root}.')
  for sample in samples:
    if sample.label and sample.mask is None:
      raise UserError(
        f'{sample.image} has no mask, so which of its pixels are defective is unknown; add it.'
      )
  paths = [_find_map(maps_root / category, sample) for sample in samples]
  pixels, scores = metrics.PixelScores(), []
  overlaps = metrics.SaturatedOverlaps() if has_layers(samples) else None
  shapes: list[tuple[int, ...]] = []
  unknown: list[Path] = []  # maps of images whose size cannot be read
  remarks: list[str] = []
  with progress_bar(category, len(samples)) as progress:
    for sample, path in zip(samples, paths, strict=True):
      map_ = read_map(path)
      mask = _read_mask(sample, map_.shape, remarks.append)
      _check_size(path, map_.shape, sample.mask, mask.shape)
      if sample.mask is None and (size := read_size(sample.image)) is not None:
        _check_size(path, map_.shape, sample.image, size[::-1])
      elif sample.mask is None:
        unknown.append(path)
      pixels.add(mask, map_)
      if overlaps is not None:
        add_saturated(overlaps, sample, map_)
      scores.append(float(map_.max()))
      shapes.append(map_.shape)
      progress.update()
  if unknown and len(set(shapes)) > 1:
    raise UserError(
      f'{unknown[0]} belongs to an image that cannot be read, and the maps of {category} are '
      'not all of one size; put the image there, or write all maps at original size.'
    )
  labels = np.array([sample.label for sample in samples])
  figures = compute_metrics(category, labels, np.array(scores), pixels)
  if (object_of := DATASETS[dataset].object_of) is not None:
    figures |= object_auroc(list(map(object_of, samples)), labels, np.array(scores))
  masks = _Lazy(len(samples), lambda i: _read_mask(samples[i], shapes[i]))
  maps = _Lazy(len(samples), lambda i: read_map(paths[i]))
  try:
    aupimo = metrics.aupimo(masks, maps)[0]
    per_defect = metrics.per_defect([s.defect for s in samples], scores, masks, maps)
  except ValueError as error:
    raise UserError(f'{category} cannot be scored: {error}.') from error
  if overlaps is not None:
    for kind, areas in saturated(overlaps).items():
      per_defect[kind] |= areas
    figures |= over_kinds(per_defect)
  return {
    'metrics': figures,
    'counts': {
      'test_normal': int(np.sum(labels == 0)),
      'test_anomalous': int(np.sum(labels == 1)),
    },
    'aupro': {str(limit): area for limit, area in pixels.aupro_at(AUPRO_LIMITS).items()},
    'aupimo': aupimo,
    'i_auc_interval': list(metrics.auroc_interval(labels, scores)),
    'per_defect': per_defect,
    'notes': list(describe_remarks(remarks, FULL)),
  }


def read_map(path: Path) -> np.ndarray:
  """Reads a map of one channel.

  Args:
    path: a TIFF, or a .npy (nothing is unpickled).

  Returns:
    [H, W], as stored.

  Raises:
    UserError: it cannot be read, has no two axes, or is not finite.
  """
  try:
    map_ = _load_array(path) if path.suffix == '.npy' else np.asarray(decode(path))
  except Exception as error:  # Pillow's plugins raise nearly anything
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise UserError(f'{path} is not a readable map: {reason}') from error
  if map_.ndim != 2 or not map_.size or map_.dtype.kind not in 'buif':
    raise UserError(f'{path} is {map_.dtype} {map_.shape}, not real numbers [H, W].')
  if not np.isfinite(map_).all():
    raise UserError(f'{path} holds NaN or infinite values.')
  return map_


def _load_array(path: Path) -> np.ndarray:
  content = read_bytes(path, MAX_BYTES)
  stream = io.BytesIO(content)
  version = np.lib.format.read_magic(stream)
  read_header = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }.get(version)
  if read_header is None:
    raise ValueError(f'version {version} of the format is not known')
  shape, _, dtype = read_header(stream)
  if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
    raise ValueError('its size is not that of its header')
  return np.load(io.BytesIO(content), allow_pickle=False)


def list_categories(maps_root: Path) -> list[str]:
  """Names of the folders that hold maps, sorted."""
  return sorted(p.parent.name for p in maps_root.glob('*/test') if p.is_dir())


def _find_map(root: Path, sample: Sample) -> Path:
  stem = root / 'test' / sample.defect / sample.stem
  for suffix in _SUFFIXES:
    path = stem.with_name(stem.name + suffix)
    if path.is_file():
      return path
  raise UserError(f'{sample.image} has no map: {stem}.tiff (or .tif, .npy) is expected.')


def _read_mask(
  sample: Sample, shape: tuple[int, ...], notice: Callable[[str], None] = lambda remark: None
) -> np.ndarray:
  if sample.mask is None:
    return np.zeros(shape, bool)
  return decode_mask(sample.mask, notice)


def _check_size(
  path: Path, shape: tuple[int, ...], reference: Mask | None, expected: tuple[int, ...]
) -> None:
  """Raises UserError where a map, of `shape`, has not the size of its mask or image."""
  if shape != expected:
    raise UserError(
      f'{path} is {shape[1]}x{shape[0]} pixels but {reference} is {expected[1]}x{expected[0]}; '
      'write the map at original size.'
    )


class _Lazy(Sequence[np.ndarray]):
  """Reads an array each time it is asked for."""

  def __init__(self, number: int, read: Callable[[int], np.ndarray]):
    self._number = number
    self._read = read

  def __len__(self) -> int:
    return self._number

  def __getitem__(self, i: Any) -> Any:
    return self._read(i)

  def __iter__(self) -> Iterator[np.ndarray]:
    return map(self._read, range(self._number))
