"""Scores the images of files, in a stream: scores.csv, heat maps, raw maps, masks."""

import csv
import dataclasses
import glob
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data.decoding import suffixes
from memkd_jax.data.images import read_rgb, resize
from memkd_jax.detector import Detector
from memkd_jax.errors import UserError, explain
from memkd_jax.files import atomic
from memkd_jax.report.overlay import color_range, heat_map
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.resolution import to_size

_LONGEST = 1024  # pixels of a heat map's longer side


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One row of scores.csv.

  Attributes:
    path: of the image, as it was given.
    score: the highest value of its map; None where it could not be read.
    p_value: probability of such a score among normal images; None without calibration.
    decision: 'anomalous' or 'normal'; None without calibration.
    peak_row: of the map's highest value, in pixels of the original image from 0.
    peak_col: likewise.
    error: why it could not be read, one sentence; else None.
  """

  path: str
  score: float | None = None
  p_value: float | None = None
  decision: str | None = None
  peak_row: int | None = None
  peak_col: int | None = None
  error: str | None = None


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What is written of each image beside its row.

  Attributes:
    heat_maps: <image>.png in heatmaps/, at the image's aspect ratio.
    maps: <image>.tiff in maps/: float32, raw, at the image's size.
    masks: <image>.png in masks/: 255 where an anomalous image exceeds the pixel
      threshold, at the image's size; a normal image has an empty mask.
  """

  heat_maps: bool = True
  maps: bool = False
  masks: bool = False


def list_inputs(patterns: Sequence[str]) -> list[Path]:
  """The images that folders, glob patterns and files name.

  Args:
    patterns: a folder stands for all images in it and in its subfolders, by
      their suffix; a file that is there for itself; anything else is a pattern.

  Returns:
    Paths in a fixed order, each once.

  Raises:
    UserError: a pattern names no image.
  """
  found: list[Path] = []
  for pattern in patterns:
    path = Path(pattern).expanduser()
    if path.is_dir():
      matches = [p for p in _walk(path) if p.suffix.lower() in suffixes()]
    elif os.path.lexists(path):
      matches = [path]
    else:
      names = glob.glob(os.path.expanduser(pattern), recursive=True)
      matches = sorted(p for p in map(Path, names) if not p.is_dir())
    if not matches:
      raise UserError(f'{pattern} names no image; give a folder, a pattern or a file.')
    found += matches
  return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class _Read:
  """What is kept of an image, whose own pixels may be a hundred million.

  Attributes:
    size: (width, height) in pixels.
    square: uint8 [S, S, 3], as the detector takes it.
    small: uint8 [h, w, 3] at the image's aspect ratio, under the heat map.
  """

  size: tuple[int, int]
  square: np.ndarray
  small: np.ndarray


def predict(
  detector: Detector,
  paths: Sequence[Path],
  out: Path | None,
  outputs: Outputs,
  pixel_rate: float | None = None,
  tell: Callable[[Prediction], None] = lambda _: None,
  threads: int = 4,
) -> int:
  """Scores images and writes what is asked for.

  Images are decoded, scored and written in a stream: a batch or two are in memory.
  Rows are written as they come, to scores.partial.csv, which is renamed at the end.

  Args:
    detector: that scores.
    paths: of the images.
    out: the folder; None for nothing but `tell`.
    outputs: written beside scores.csv.
    pixel_rate: share of normal pixels above the masks' threshold; the false-alarm rate
      of the detector's where None.
    tell: is given each row.
    threads: that decode images.

  Returns:
    How many images could not be read.

  Raises:
    UserError: masks are asked for and there is no calibration.
    OSError: something could not be written.
    interrupt.Interrupted: a signal came; scores.partial.csv holds what was scored.
  """
  if outputs.masks and detector.calibration is None:
    raise UserError(
      '--masks needs a threshold, and this model has none; train with '
      '--config.train.holdout=0.1.'
    )
  root = Path(os.path.commonpath([_absolute(path).parent for path in paths]))
  writer = None if out is None else _Writer(detector, out, root, outputs, pixel_rate)
  failed = 0
  with _Rows(out) as rows, progress_bar('predicting', len(paths)) as progress:
    for batch in _decoded(paths, detector, threads):
      interrupt.raise_if_asked()
      result = detector(image.square for _, image in batch if isinstance(image, _Read))
      number = itertools.count()
      for path, image in batch:
        if isinstance(image, UserError):
          failed += 1
          row = Prediction(str(path), error=explain(image))
        else:
          i = next(number)
          row = _row(path, image, result.maps[i], float(result.scores[i]))
          if result.p_values is not None and result.decisions is not None:
            decision = 'anomalous' if result.decisions[i] else 'normal'
            row = dataclasses.replace(row, p_value=float(result.p_values[i]), decision=decision)
          if writer is not None:
            writer.write(path, image, result.maps[i], row.decision == 'anomalous')
        rows.add(row)
        tell(row)
        progress.update()
  return failed


def _row(path: Path, image: _Read, map_: np.ndarray, score: float) -> Prediction:
  peak = np.unravel_index(map_.argmax(), map_.shape)
  row, column = (
    int((index + 0.5) * length / side)
    for index, length, side in zip(peak, image.size[::-1], map_.shape, strict=True)
  )
  return Prediction(str(path), score, peak_row=row, peak_col=column)


def _decoded(
  paths: Sequence[Path], detector: Detector, threads: int
) -> Iterator[list[tuple[Path, _Read | UserError]]]:
  """Batches of images, while the next one is being decoded."""
  batch_size = detector.batch_size

  def read(path: Path) -> _Read | UserError:
    try:
      image = read_rgb(path)
    except UserError as error:
      return error
    square = resize(image, detector.image_size)
    size = image.size
    image.thumbnail((_LONGEST, _LONGEST))
    return _Read(size, square, np.asarray(image))

  waiting: deque[list[tuple[Path, Future[_Read | UserError]]]] = deque()
  with ThreadPoolExecutor(threads) as pool:
    try:
      for begin in range(0, len(paths), batch_size):
        batch = paths[begin : begin + batch_size]
        waiting.append([(path, pool.submit(read, path)) for path in batch])
        if len(waiting) > 1:
          yield [(path, future.result()) for path, future in waiting.popleft()]
      while waiting:
        yield [(path, future.result()) for path, future in waiting.popleft()]
    finally:
      pool.shutdown(cancel_futures=True)


def _absolute(path: Path) -> Path:
  """Without any '..', by which a picture could be written elsewhere."""
  return Path(os.path.abspath(path))


class _Rows:
  """scores.csv as a context manager; with no folder it does nothing."""

  def __init__(self, out: Path | None):
    self._out = out

  def __enter__(self) -> '_Rows':
    if self._out is not None:
      self._out.mkdir(parents=True, exist_ok=True)
      self._partial = self._out / 'scores.partial.csv'
      # File names may hold what is no UTF-8.
      self._file = self._partial.open(
        'w', newline='', encoding='utf-8', errors='backslashreplace'
      )
      self._csv = csv.writer(self._file)
      self._csv.writerow(field.name for field in dataclasses.fields(Prediction))
    return self

  def add(self, row: Prediction) -> None:
    if self._out is not None:
      with atomic.naming(self._partial):
        self._csv.writerow(dataclasses.astuple(row))

  def __exit__(self, kind: type | None, *_: object) -> None:
    if self._out is not None:
      with atomic.naming(self._partial):
        self._file.close()
        if kind is None:
          self._partial.replace(self._out / 'scores.csv')


class _Writer:
  """Writes the pictures of an image under its path below the common folder."""

  def __init__(
    self,
    detector: Detector,
    out: Path,
    root: Path,
    outputs: Outputs,
    pixel_rate: float | None,
  ):
    self._detector, self._out, self._root, self._outputs = detector, out, root, outputs
    self._pixel_threshold = None
    if detector.calibration is not None and detector.threshold is not None:
      rate = detector.threshold.false_alarm_rate if pixel_rate is None else pixel_rate
      self._pixel_threshold = detector.calibration.pixel_threshold(rate)

  def write(self, path: Path, image: _Read, map_: np.ndarray, anomalous: bool) -> None:
    """Writes what is asked for.

    Args:
      path: of the image.
      image: what is kept of it.
      map_: [S, S].
      anomalous: the decision.
    """
    name = _absolute(path).relative_to(self._root)
    if self._outputs.heat_maps:
      resized = to_size(map_, np.array(image.small.shape[1::-1]))
      low, high = color_range(self._detector.calibration, self._detector.threshold, map_)
      picture = heat_map(image.small, resized, low, high)
      self._save(Image.fromarray(picture), 'heatmaps', name, '.png')
    if self._outputs.maps or self._outputs.masks:
      full = to_size(map_, np.array(image.size))
      if self._outputs.maps:
        self._save(Image.fromarray(full), 'maps', name, '.tiff')
      if self._outputs.masks:
        mask = anomalous & (full > self._pixel_threshold)
        self._save(Image.fromarray(mask.astype(np.uint8) * 255), 'masks', name, '.png')

  def _save(self, picture: Image.Image, folder: str, name: Path, suffix: str) -> None:
    # The image's own suffix stays: a.png and a.jpg may lie side by side.
    with atomic.atomic_write(self._out / folder / f'{name}{suffix}') as temporary:
      picture.save(temporary)


def _walk(folder: Path) -> Iterator[Path]:
  """All files below a folder in a fixed order; hidden ones are left out."""
  for current, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    for name in sorted(names):
      if not name.startswith('.'):
        yield Path(current) / name
