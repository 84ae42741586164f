"""The archive that the benchmark server of MVTec AD 2 takes: maps of its private test sets.

<name>/anomaly_images/<category>/<test set>/<image>.tiff               float16
<name>/anomaly_images_thresholded/<category>/<test set>/<image>.png    0 and 255
"""

import gzip
import hashlib
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tifffile
from PIL import Image

from memkd_jax.data import inputs
from memkd_jax.data.benchmarks import counts, mvtec_ad_2
from memkd_jax.data.framing import seen_of
from memkd_jax.data.images import read_rgb
from memkd_jax.data.sample import Sample
from memkd_jax.data.task_images import image_digests
from memkd_jax.detector import Detector
from memkd_jax.errors import UserError
from memkd_jax.files import atomic
from memkd_jax.files.digest import tree_digest
from memkd_jax.files.reading import read_json
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.base import BaseDetector
from memkd_jax.scoring.spread import Spread
from memkd_jax.wording import counted

MAPS, DECISIONS = 'anomaly_images', 'anomaly_images_thresholded'
# Images of each of the two private test sets, as the publisher's own check expects them.
EXPECTED = {
  category: counts.published('mvtec_ad_2', category)['unlabelled'] // len(mvtec_ad_2.PRIVATE)
  for category in mvtec_ad_2.CATEGORIES
}
_HIGHEST = float(np.finfo(np.float16).max)
_THREADS = 8  # that read files


def write_category(
  detector: Detector, data: Path, out: Path, threshold: float | None = None
) -> float:
  """Writes the maps of both private test sets of a category; what is there already stays.

  Maps are scaled by a power of two, the same one for a category, so that the threshold lies
  between 1 and 2, where float16 is fine: the server ranks the pixels of a category.

  Args:
    detector: the detector that was trained on the category.
    data: folder of the data set.
    out: the folder that will be archived; `<out>.json` beside it tells whose maps it holds.
    threshold: above which a pixel is anomalous, in the unit of the detector's maps; that of
      the publisher's baseline if None: mean and three deviations of all pixels of the
      validation images, at their size.

  Returns:
    The threshold.

  Raises:
    UserError: images are missing or broken, the folder holds maps of another model or
      threshold, or a map does not fit into float16.
    OSError: the disk is full or not writable.
    interrupt.Interrupted: a signal came.
  """
  category, splits = detector.category, mvtec_ad_2.PRIVATE
  images = {split: mvtec_ad_2.list_private(data, category, split) for split in splits}
  atomic.remove_orphans(
    [out / kind / category / s for kind in (MAPS, DECISIONS) for s in splits]
  )
  threshold = _claim(detector, data, out, threshold)
  scale = 2.0 ** -math.floor(math.log2(threshold)) if 0 < threshold < math.inf else 1.0
  for split, paths in images.items():
    missing = [path for path in paths if not _is_there(out, category, split, path)]
    with progress_bar(f'{category} {split}', len(paths), len(paths) - len(missing)) as progress:
      for path, map_, _ in _maps(detector, missing, progress.update):
        if not np.abs(map_ * scale).max() <= _HIGHEST:
          raise UserError(f'The map of {path} has values beyond float16, the type to submit.')
        decided = _place(out, DECISIONS, category, split, path)
        with atomic.atomic_write(decided) as temporary:
          Image.fromarray(np.where(map_ > threshold, 255, 0).astype(np.uint8)).save(temporary)
        # Written last: where it is the other one is.
        with atomic.atomic_write(_place(out, MAPS, category, split, path)) as temporary:
          tifffile.imwrite(temporary, (map_ * scale).astype(np.float16))
  return threshold


def problems(out: Path) -> list[str]:
  """Why the server would not take a folder: sentences, none where it would.

  Args:
    out: the folder that `write_category` has written to.
  """
  found = []
  for category, number in EXPECTED.items():
    expected = set(_names(category, number))
    folders = [out / kind / category for kind in (MAPS, DECISIONS)]
    there = {
      file.relative_to(out).as_posix()
      for folder in folders
      for file in folder.rglob('*.*')
      if not atomic.is_temporary(file.name)
    }
    missing, spare = sorted(expected - there), sorted(there - expected)
    if missing:
      number_of = f'{len(missing):,} of {counted(len(expected), "file")}'
      found.append(f'{category}: {number_of} are missing, {missing[0]} first.')
    if spare:
      found.append(f'{category}: {counted(len(spare), "file")} too many, {spare[0]} first.')
  return found


def archive(out: Path) -> Path:
  """Packs a folder as the server takes it: `<out>.tar.gz`, complete or absent.

  The same content gives the same bytes.

  Raises:
    OSError: the disk is full or not writable.
    interrupt.Interrupted: a signal came.
  """
  path = out.with_name(f'{out.name}.tar.gz')
  both = [*(out / MAPS).rglob('*.tiff'), *(out / DECISIONS).rglob('*.png')]
  files = sorted(file for file in both if not atomic.is_temporary(file.name))
  with (
    atomic.atomic_write(path) as temporary,
    temporary.open('wb') as raw,
    gzip.GzipFile('', 'wb', compresslevel=1, fileobj=raw, mtime=0) as compressed,
    tarfile.open(fileobj=compressed, mode='w') as packed,
    progress_bar('archive', len(files), unit='file') as progress,
  ):
    for file in files:
      interrupt.raise_if_asked()
      packed.add(file, f'{out.name}/{file.relative_to(out).as_posix()}', filter=_plain)
      progress.update()
  return path


def _claim(detector: Detector, data: Path, out: Path, threshold: float | None) -> float:
  """The threshold by which the maps in the folder are decided, or will be.

  It is recorded before the first map is written, with what it follows from, so that all maps of
  a category have one: a second one, of another device for example, may differ in its last bits.
  """
  category, record = detector.category, out.with_name(f'{out.name}.json')
  validation = mvtec_ad_2.list_samples(data, category, 'validation')
  facts = {
    'model': _identity(detector),
    'rule': 'three-sigma' if threshold is None else 'given',
  }
  if threshold is None:
    known = image_digests(validation, _THREADS)
    facts['validation'] = hashlib.sha256(json.dumps(known).encode()).hexdigest()
  else:
    facts['value'] = repr(threshold)
  entries = _read_record(record)
  if entries is None and any((out / kind).exists() for kind in (MAPS, DECISIONS)):
    raise UserError(f'There is no {record}, which tells whose maps are in {out}; remove both.')
  entry = (entries or {}).get(category)
  if entry is None:
    value = _baseline(detector, validation) if threshold is None else threshold
    atomic.write_json(record, (entries or {}) | {category: facts | {'threshold': value}})
    return value
  if {name: found for name, found in entry.items() if name != 'threshold'} != facts:
    raise UserError(
      f'{out} holds maps of {category} by another model, other validation images or another '
      f'threshold; remove it and {record}, or name another --out.'
    )
  return float(entry['threshold'])


def _read_record(path: Path) -> dict[str, dict[str, Any]] | None:
  """The entries by category; None where there is no record."""
  try:
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(
      isinstance(entry, dict) and isinstance(entry.get('threshold'), int | float)
      for entry in entries.values()
    ):
      raise ValueError('it has no thresholds')
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{path} cannot be read ({reason}); remove it and the folder of its name.'
    ) from error
  return entries


def _identity(detector: Detector) -> str:
  """Tells a model from others: a digest of its numbers, its teacher's and its config."""
  trained = detector.trained
  numbers = jax.tree_util.tree_leaves_with_path((trained.params, trained.statistics))
  arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in numbers}
  known = tree_digest(arrays), trained.teacher_sha256, trained.config.to_json(sort_keys=True)
  return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _baseline(detector: BaseDetector, validation: Sequence[Sample]) -> float:
  """Mean and three deviations of all pixels of the images that are looked at."""
  spread = Spread()
  paths = [Path(str(sample.image)) for sample in validation]
  with progress_bar(f'{detector.category} validation', len(paths)) as progress:
    for _, map_, shown in _maps(detector, paths, progress.update):
      spread.add(map_ if shown is None else map_[shown])
  if not spread.number:
    raise UserError(f'{detector.category}: no pixel of the validation images is looked at.')
  return spread.three_sigma


def _maps(
  detector: BaseDetector, paths: Sequence[Path], update: Callable[[int], Any]
) -> Iterator[tuple[Path, np.ndarray, np.ndarray | None]]:
  """Each image's map at its size, float32 [H, W], and what was looked at; None for all."""
  size = detector.images_at_once
  for begin in range(0, len(paths), size):
    interrupt.raise_if_asked()
    some = paths[begin : begin + size]
    pictures = [read_rgb(path, detector.bits) for path in some]
    canvases = list(inputs.resized(pictures, detector.framing, detector.bits))
    result = detector.score_canvases(canvases)
    for path, picture, canvas, map_ in zip(some, pictures, canvases, result.maps, strict=True):
      yield path, *detector.framing.to_image(map_, picture.size, seen=seen_of(canvas))
      update(1)


def _names(category: str, number: int) -> Iterator[str]:
  """The files of a category as the server expects them."""
  for split in mvtec_ad_2.PRIVATE:
    suffix = 'mixed' if split.endswith('mixed') else 'regular'
    for kind, ending in ((MAPS, 'tiff'), (DECISIONS, 'png')):
      for i in range(number):
        yield f'{kind}/{category}/{split}/{i:03}_{suffix}.{ending}'


def _place(out: Path, kind: str, category: str, split: str, image: Path) -> Path:
  return out / kind / category / split / f'{image.stem}{".tiff" if kind == MAPS else ".png"}'


def _is_there(out: Path, category: str, split: str, image: Path) -> bool:
  return all(_place(out, kind, category, split, image).exists() for kind in (MAPS, DECISIONS))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
  """Without whose the file is, and when it was written."""
  entry.uid = entry.gid = entry.mtime = 0
  entry.mode = 0o644
  entry.uname = entry.gname = ''
  return entry
