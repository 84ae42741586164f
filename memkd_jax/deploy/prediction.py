"""Scores the images of files, in a stream."""

import contextlib
import dataclasses
import glob
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from memkd_jax.data.framing import RGB, Framing, seen_of
from memkd_jax.data.listing import (
  LeftOut,
  describe_left_out,
  is_predicted,
  list_images_below,
)
from memkd_jax.data.modalities import is_photograph
from memkd_jax.deploy.region_files import RegionFiles
from memkd_jax.deploy.results import Outputs, Pictures, Prediction, Rows
from memkd_jax.deploy.stream import Decoded, batches
from memkd_jax.errors import UserError, explain
from memkd_jax.runtime import interrupt
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.scoring.base import BaseDetector
from memkd_jax.scoring.regions import find_regions

_DIGITS = '.6g'  # float32 holds no more


def list_inputs(patterns: Sequence[str], left_out: list[LeftOut] | None = None) -> list[Path]:
  """The images that folders, glob patterns and files name.

  Args:
    patterns: a folder stands for all images in it and in its subfolders, by
      their suffix; a file that is there for itself; anything else is a pattern.
    left_out: list to which is added what in folders and among the matches of patterns is no
      image; what `predict` has written is such.

  Returns:
    Paths in a fixed order, each once.

  Raises:
    UserError: a pattern names no image.
  """
  found: list[Path] = []
  others: list[LeftOut] = []
  for pattern in patterns:
    path = Path(pattern).expanduser()
    beside: list[LeftOut] = []
    if path.is_dir():
      matches, beside = list_images_below(path, any_name=True)
      problem = 'holds no images'
    elif os.path.lexists(path):
      matches = [path]
    elif not glob.has_magic(pattern):
      raise UserError(f'{pattern} does not exist; give a folder, a quoted pattern or a file.')
    else:
      matches, beside = _matches(os.path.expanduser(pattern))
      problem = 'is a pattern that no image matches'
    if not matches:
      raise UserError(
        f'{pattern} {problem}; give a folder, a quoted pattern or a file. '
        f'{describe_left_out(beside)}'.strip()
      )
    found += matches
    others += beside
  if left_out is not None:
    named = set(found)
    left_out += dict.fromkeys(item for item in others if item.path not in named)
  return list(dict.fromkeys(found))


def choose_objects(
  paths: Sequence[Path], framing: Framing, left_out: list[LeftOut]
) -> list[Path]:
  """The photographs among images, where a model looks at other pictures of an object too.

  Args:
    paths: the files of the images.
    framing: how images lie on the model's canvases, and which pictures it looks at.
    left_out: list to which the other images are added.

  Raises:
    UserError: there is none.
  """
  if framing.inputs == (RGB,):
    return list(paths)
  found = [path for path in paths if is_photograph(path)]
  kind = 'file beside photographs of objects (rgb/NAME.png, NAME_image_0.png)'
  left_out += [LeftOut(path, kind) for path in paths if not is_photograph(path)]
  if not found:
    raise UserError(
      f'The model looks at {", ".join(framing.inputs)} of an object, and none is among the '
      'images: give a folder with rgb/NAME.png and xyz/NAME.tiff, or with NAME_image_0.png and '
      'the depth and normals beside it.'
    )
  return found


def _matches(pattern: str) -> tuple[list[Path], list[LeftOut]]:
  """The files that a pattern matches, and what else it matches."""
  matches: list[Path] = []
  left_out = []
  for path in sorted(map(Path, glob.glob(pattern, recursive=True))):
    if is_predicted(path):
      left_out.append(LeftOut(path, 'file or folder that memkd predict has written'))
    elif path.is_dir():
      left_out.append(LeftOut(path, 'folder that a pattern matches but does not look into'))
    else:
      matches.append(path)
  return matches, left_out


def predict(
  detector: BaseDetector,
  paths: Sequence[Path],
  out: Path | None,
  outputs: Outputs,
  pixel_rate: float | None = None,
  tell: Callable[[Prediction], None] = lambda _: None,
  threads: int = 4,
  notice: Callable[[str], None] = lambda _: None,
) -> int:
  """Scores images and writes what is asked for.

  Images are decoded, scored and written in a stream: a batch or two are in memory.
  Rows are written as they come, to scores.partial.csv, which is renamed at the end.

  Args:
    detector: the detector that scores the images.
    paths: the files of the images; one of several pages or frames is as many images.
    out: the folder; None for nothing but `tell`.
    outputs: what is written of each image beside scores.csv.
    pixel_rate: share of normal pixels above the masks' threshold, see
      `BaseDetector.pixel_threshold`.
    tell: called with each row as it is written.
    threads: number of threads that decode images.
    notice: called with what is remarkable about files, see `data.images.read_image`.

  Returns:
    How many images could not be read.

  Raises:
    UserError: masks are asked for and there is no threshold for them.
    OSError: something could not be written.
    interrupt.Interrupted: a signal came; scores.partial.csv holds what was scored.
  """
  if outputs.by_pixel and detector.undecided:
    flag = '--masks' if outputs.masks else '--regions' if outputs.regions else '--min-area'
    raise UserError(f'{flag} needs a threshold. {detector.undecided}')
  pixel_threshold = detector.pixel_threshold(pixel_rate) if outputs.by_pixel else None
  pictures = None if out is None else Pictures(detector, out, paths, outputs, pixel_threshold)
  failed = 0
  options = (detector.images_at_once, detector.framing, detector.bits, threads, notice)
  with (
    Rows(out) as rows,
    _region_files(out, detector, outputs) as region_files,
    progress_bar('predicting', len(paths)) as progress,
  ):
    for batch in batches(paths, *options):
      interrupt.raise_if_asked()
      result = detector.score_canvases([image.canvas for image in batch if image.error is None])
      number = itertools.count()
      for image in batch:
        if image.error is not None:
          failed += 1
          row = Prediction(image.name, error=explain(image.error))
        else:
          i = next(number)
          row = _row(image, detector.framing, result.maps[i], float(result.scores[i]))
          if result.p_values is not None:
            row = dataclasses.replace(row, p_value=_rounded(float(result.p_values[i])))
          if result.decisions is not None:
            decision = 'anomalous' if result.decisions[i] else 'normal'
            row = dataclasses.replace(row, decision=decision)
          full = None
          if (
            outputs.maps or outputs.masks or (outputs.by_pixel and row.decision == 'anomalous')
          ):
            full, _ = detector.framing.to_image(
              result.maps[i], image.size, seen=seen_of(image.canvas)
            )
          if pixel_threshold is not None and (outputs.regions or outputs.smallest):
            row = _with_regions(row, full, pixel_threshold, outputs.smallest)
          found = row.regions or ()
          if region_files is not None:
            region_files.add(row.path, image.size, found)
          if pictures is not None:
            pictures.write(image, result.maps[i], full, row.decision == 'anomalous', found)
        rows.add(row)
        tell(row)
        progress.update(not image.page)  # the bar counts files
  return failed


def _region_files(
  out: Path | None, detector: BaseDetector, outputs: Outputs
) -> contextlib.AbstractContextManager[RegionFiles | None]:
  if out is None or not outputs.regions:
    return contextlib.nullcontext()
  return RegionFiles(out, detector.category)


def _with_regions(
  row: Prediction, full: np.ndarray | None, threshold: float, smallest: int
) -> Prediction:
  """The row with its regions, and normal where it has none of the size that is asked for."""
  if row.decision != 'anomalous' or full is None:
    return dataclasses.replace(row, regions=())
  regions = tuple(find_regions(full, threshold, max(1, smallest)))
  decision = 'anomalous' if regions or not smallest else 'normal'
  return dataclasses.replace(row, decision=decision, regions=regions)


def _row(image: Decoded, framing: Framing, map_: np.ndarray, score: float) -> Prediction:
  peak = np.unravel_index(map_.argmax(), map_.shape)
  row, column = framing.to_position(int(peak[0]), int(peak[1]), image.size)
  return Prediction(image.name, _rounded(score), peak_row=row, peak_col=column)


def _rounded(value: float) -> float:
  return float(format(value, _DIGITS))
