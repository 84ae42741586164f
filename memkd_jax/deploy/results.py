"""What `predict` writes: rows in scores.csv, and pictures beside it."""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from memkd_jax.data.framing import seen_of
from memkd_jax.data.listing import PICTURES, SCORES
from memkd_jax.deploy.stream import Decoded
from memkd_jax.files import atomic
from memkd_jax.report.overlay import color_range, draw_boxes, heat_map
from memkd_jax.scoring.base import BaseDetector
from memkd_jax.scoring.regions import Region

_SCORES, _PARTIAL = SCORES
_HEAT_MAPS, _MAPS, _MASKS = PICTURES


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One row of scores.csv.

  Attributes:
    path: path of the image, as it was given; of several pages in a file with #1, #2, ... behind
      it.
    score: the highest value of its map, of images in tiles before these fade into each other,
      to 6 digits; None where it could not be read.
    p_value: probability of such a score among normal images, to 6 digits; None without
      calibration.
    decision: 'anomalous' or 'normal'; None without a threshold.
    peak_row: row of the map's highest value, in pixels of the original image from 0.
    peak_col: column of the map's highest value, in pixels of the original image from 0.
    error: why it could not be read, one sentence; else None.
    regions: regions of an anomalous image, where they are asked for; else None. No column of
      the file.
  """

  path: str
  score: float | None = None
  p_value: float | None = None
  decision: str | None = None
  peak_row: int | None = None
  peak_col: int | None = None
  error: str | None = None
  regions: tuple[Region, ...] | None = None

  def columns(self) -> dict[str, Any]:
    """The columns of scores.csv."""
    return {name: getattr(self, name) for name in _COLUMNS}


_COLUMNS = [field.name for field in dataclasses.fields(Prediction) if field.name != 'regions']


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What is written of each image beside its row.

  <image> is its path without suffix, below the folder that all images have in common; with its
  suffix where two images of a folder differ in that alone, and for pages of a file.

  Attributes:
    heat_maps: <image>.png in heatmaps/, at the image's aspect ratio.
    maps: <image>.tiff in maps/: float32, raw, at the image's size.
    masks: <image>.png in masks/: 255 where an anomalous image exceeds the pixel
      threshold, at the image's size; a normal image has an empty mask.
    regions: regions.csv and regions.coco.json: the connected parts of what exceeds the pixel
      threshold in anomalous images; heat maps have their boxes.
    smallest: an image is anomalous only where it has a region of so many pixels; 0 asks for
      none.
  """

  heat_maps: bool = True
  maps: bool = False
  masks: bool = False
  regions: bool = False
  smallest: int = 0

  @property
  def by_pixel(self) -> bool:
    """Whether the pixel threshold is needed."""
    return self.masks or self.regions or self.smallest > 0


class Rows:
  """scores.csv as a context manager; with no folder it does nothing."""

  def __init__(self, out: Path | None):
    """Takes the folder."""
    self._out = out

  def __enter__(self) -> 'Rows':
    """Begins scores.partial.csv."""
    if self._out is not None:
      self._out.mkdir(parents=True, exist_ok=True)
      self._partial = self._out / _PARTIAL
      # File names may hold what is no UTF-8.
      self._file = self._partial.open(
        'w', newline='', encoding='utf-8', errors='backslashreplace'
      )
      self._csv = csv.writer(self._file)
      self._csv.writerow(_COLUMNS)
    return self

  def add(self, row: Prediction) -> None:
    """Writes a row."""
    if self._out is not None:
      with atomic.naming(self._partial):
        self._csv.writerow(row.columns().values())

  def __exit__(self, kind: type | None, *_: object) -> None:
    """Renames it to scores.csv, unless something went wrong."""
    if self._out is not None:
      with atomic.naming(self._partial):
        self._file.close()
        if kind is None:
          self._partial.replace(self._out / _SCORES)


class Pictures:
  """Writes the pictures of images under their paths below the common folder."""

  def __init__(
    self,
    detector: BaseDetector,
    out: Path,
    paths: Sequence[Path],
    outputs: Outputs,
    pixel_threshold: float | None,
  ):
    """Takes where they go.

    Args:
      detector: the detector that made the maps.
      out: the folder below which pictures are written.
      paths: the files of all images that will come.
      outputs: what is written of each image.
      pixel_threshold: the value of the map above which a pixel is anomalous in masks; None
        where none are written.
    """
    self._detector, self._out, self._outputs = detector, out, outputs
    self._names = picture_names(paths)
    self._pixel_threshold = pixel_threshold

  def write(
    self,
    image: Decoded,
    map_: np.ndarray,
    full: np.ndarray | None,
    anomalous: bool,
    regions: Sequence[Region] = (),
  ) -> None:
    """Writes what is asked for.

    Args:
      image: what is kept of the image.
      map_: anomaly map of the canvas, floating [H, W].
      full: the map at the image's size; None where nothing needs it.
      anomalous: whether the image is called anomalous.
      regions: the regions whose boxes are drawn.
    """
    if self._outputs.heat_maps:
      small = (image.small.shape[1], image.small.shape[0])
      seen = seen_of(image.canvas)
      resized, _ = self._detector.framing.to_image(map_, image.size, small, seen)
      low, high = color_range(self._detector.calibration, self._detector.threshold, map_)
      picture = Image.fromarray(heat_map(image.small, resized, low, high))
      draw_boxes(picture, regions, image.size)
      self._save(picture, _HEAT_MAPS, image, '.png')
    if self._outputs.maps and full is not None:
      self._save(Image.fromarray(full), _MAPS, image, '.tiff')
    if self._outputs.masks and full is not None:
      mask = anomalous & (full > self._pixel_threshold)
      self._save(Image.fromarray(mask.astype(np.uint8) * 255), _MASKS, image, '.png')

  def _save(self, picture: Image.Image, folder: str, image: Decoded, suffix: str) -> None:
    if image.page is None:
      name = str(self._names[image.path])
    else:
      name = f'{self._names[image.path].with_name(image.path.name)}#{image.page + 1}'
    with atomic.atomic_write(self._out / folder / f'{name}{suffix}') as temporary:
      picture.save(temporary)


def picture_names(paths: Sequence[Path]) -> dict[Path, Path]:
  """Where the pictures of each image lie, without the picture's own suffix.

  Args:
    paths: the files of the images, at least one.

  Returns:
    Relative paths by those of the images: below the folder that all images have in common,
    and without suffix where that leaves them different.
  """
  absolute = {path: _absolute(path) for path in paths}
  root = Path(os.path.commonpath([path.parent for path in absolute.values()]))
  whole = {path: found.relative_to(root) for path, found in absolute.items()}
  names = {path: name.with_suffix('') for path, name in whole.items()}
  # a.jpg of a.jpg and a.png may be the name without suffix of a.jpg.bmp, so again and again.
  while True:
    # A path may be given twice in two ways, which are one picture.
    claims = Counter(name for _, name in {(whole[path], names[path]) for path in paths})
    longer = [p for p in paths if claims[names[p]] > 1 and names[p] != whole[p]]
    if not longer:
      return names
    names |= {path: whole[path] for path in longer}


def _absolute(path: Path) -> Path:
  """Without any '..', by which a picture could be written elsewhere."""
  return Path(os.path.abspath(path))
