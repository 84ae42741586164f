"""What else was recorded of an object than a photograph: its depth and its surface's normals.

Each becomes a picture of three channels, which a teacher of photographs sees as it sees these:
heights above the background as grey values, and normals as colours. A sample brings a point
cloud ('xyz'), or a file of depth ('depth', 'depth_info') and one of normals ('normals').
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from memkd_jax.data.depth_files import read_cloud, read_depth
from memkd_jax.data.framing import RGB, Framing
from memkd_jax.data.images import Notice, read_image, read_rgb
from memkd_jax.data.sample import GOOD, Readable, Sample
from memkd_jax.errors import UserError
from memkd_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
  from memkd_jax.data.clouds import Surface

DEPTH, NORMALS = 'depth', 'normals'
XYZ, INFO = 'xyz', 'depth_info'
# What a sample may hold beside its photograph.
FURTHER = (XYZ, DEPTH, INFO, NORMALS)
IMAGE = '_image_0.png'  # of Eyecandies: each object under the first of six lights

_OUTLIERS = 0.001  # share of heights that the range does not reach to, on either side
_MARGIN = 0.1  # of the range, added on either side: a defect may stand out

Range = tuple[float, float]


def read_sample(
  sample: Sample, framing: Framing, bits: int, notice: Notice
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads all pictures of an object.

  Args:
    sample: the object, with the files that `framing.inputs` need.
    framing: says which pictures there are, and how they lie on their canvas.
    bits: see `images.read_image`.
    notice: see `images.read_image`.

  Returns:
    The canvas, uint8 [H, W, `framing.channels`], and the (width, height) of the pictures.

  Raises:
    UserError: a file is missing or broken, they are of several sizes, or nothing was measured.
  """
  if framing.inputs == (RGB,):
    return read_image(sample.image, framing, bits, notice)
  surface = functools.cache(lambda: read_surface(sample.inputs))
  shown = [PICTURES[name](sample, surface, framing, bits, notice) for name in framing.inputs]
  _check_sizes([(str(one.file), one.picture.size) for one in shown])
  try:
    layers = [framing.layer(one.picture, one.valid) for one in shown]
  except UserError as error:
    raise UserError(f'{sample.id}: {error}') from error
  return np.concatenate(layers, axis=-1), shown[0].picture.size


def read_object(
  photograph: Path, framing: Framing, bits: int, notice: Notice
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads an object that is known by its photograph; results and errors as `read_sample`.

  What else is looked at of it lies where the publishers have it: beside rgb/NAME.png is
  xyz/NAME.tiff (MVTec 3D-AD), beside NAME_image_0.png are NAME_depth.png,
  NAME_info_depth.yaml and NAME_normals.png (Eyecandies).
  """
  return read_sample(_sample_of(photograph, framing.inputs), framing, bits, notice)


def is_photograph(path: Path) -> bool:
  """Whether an object is known by a file, see `read_object`."""
  return path.parent.name == RGB or path.name.endswith(IMAGE)


def _sample_of(photograph: Path, inputs: Sequence[str]) -> Sample:
  files: dict[str, Path] = {RGB: photograph}
  if photograph.name.endswith(IMAGE):
    files |= eyecandies_files(photograph, inputs)
  elif tuple(inputs) != (RGB,):
    files[XYZ] = photograph.parent.parent / XYZ / f'{photograph.stem}.tiff'
  for file in files.values():
    if not file.is_file():
      raise UserError(
        f'There is no {file}, which belongs to {photograph}: the model looks at '
        f'{", ".join(inputs)}. Beside rgb/NAME.png it expects xyz/NAME.tiff, beside '
        f'NAME{IMAGE} it expects NAME_depth.png, NAME_info_depth.yaml and NAME_normals.png.'
      )
  return Sample(str(photograph), files, None, GOOD)


def eyecandies_files(photograph: Path, inputs: Sequence[str]) -> dict[str, Path]:
  """What Eyecandies has of an object beside NAME_image_0.png, by its name in a sample."""
  name, files = photograph.name.removesuffix(IMAGE), {}
  if DEPTH in inputs:
    files[DEPTH] = photograph.with_name(f'{name}_depth.png')
    files[INFO] = photograph.with_name(f'{name}_info_depth.yaml')
  if NORMALS in inputs:
    files[NORMALS] = photograph.with_name(f'{name}_normals.png')
  return files


class Shown(NamedTuple):
  """One of the pictures of an object.

  Attributes:
    file: the file that the picture was made of.
    picture: the picture, of Pillow's mode RGB.
    valid: bool [H, W], where it shows what was measured; None for everywhere.
  """

  file: Readable
  picture: Image.Image
  valid: np.ndarray | None = None


def _photograph(
  sample: Sample, surface: Callable[[], 'Surface'], framing: Framing, bits: int, notice: Notice
) -> Shown:
  return Shown(sample.image, read_rgb(sample.image, bits, notice))


def _depth(
  sample: Sample, surface: Callable[[], 'Surface'], framing: Framing, bits: int, notice: Notice
) -> Shown:
  low, high = framing.depth_range or (0.0, 1.0)  # which the training images have given
  shown = np.clip((surface().heights - low) / (high - low), 0.0, 1.0)
  picture = to_picture(np.repeat(shown[..., None], 3, axis=-1))
  return Shown(_file_of_surface(sample.inputs), picture, surface().valid)


def _normals(
  sample: Sample, surface: Callable[[], 'Surface'], framing: Framing, bits: int, notice: Notice
) -> Shown:
  if XYZ not in sample.inputs:  # no other file tells them in true angles
    if NORMALS not in sample.inputs:
      raise UserError(
        f"{sample.image} has neither a point cloud ('xyz') nor normals ('normals') beside it, "
        'which the model looks at; give them.'
      )
    return Shown(sample.inputs[NORMALS], read_rgb(sample.inputs[NORMALS]))
  picture = to_picture((surface().normals + 1.0) / 2.0)
  return Shown(_file_of_surface(sample.inputs), picture, surface().valid)


# By the names in `data.inputs`, in the order of the pictures. A further one is an entry here.
PICTURES = {RGB: _photograph, DEPTH: _depth, NORMALS: _normals}


def to_picture(values: np.ndarray) -> Image.Image:
  """Numbers from 0 to 1, [H, W, 3], as an RGB picture."""
  return Image.fromarray(np.rint(255.0 * values).astype(np.uint8))


def read_surface(inputs: Mapping[str, Readable]) -> 'Surface':
  """The surface of an object, from its point cloud or its file of depth.

  Raises:
    UserError: there is neither, it is broken, or nothing of it was measured.
  """
  from memkd_jax.data import clouds  # scipy's filters take a second to import

  file = _file_of_surface(inputs)
  points = read_cloud(file) if XYZ in inputs else read_depth(file, inputs[INFO])
  try:
    return clouds.surface(points)
  except ValueError as error:
    raise UserError(f'{file}: {error}; leave the object out.') from error


def choose_depth_range(
  inputs: Sequence[str], setting: str | Sequence[float], samples: Sequence[Sample], threads: int
) -> Range | None:
  """The heights that become black and white in all pictures of depth of a model.

  Args:
    inputs: names of the pictures that it sees.
    setting: the value of `data.depth_range`: two heights, or 'auto'.
    samples: the training images, whose heights 'auto' looks at.
    threads: number of threads that read files.

  Returns:
    The setting; of 'auto' the range of all but a thousandth of the training images' heights on
    either side, with a tenth of it more. None where no depth is looked at, or nothing can be
    read, which reading the split will explain.
  """
  if not isinstance(setting, str):
    return float(setting[0]), float(setting[1])
  if DEPTH not in inputs:
    return None

  def bounds(sample: Sample) -> Range | None:
    try:
      surface = read_surface(sample.inputs)
    except (UserError, KeyError):
      return None
    found = np.quantile(surface.heights[surface.valid], (_OUTLIERS, 1.0 - _OUTLIERS))
    return float(found[0]), float(found[1])

  found = []
  with ThreadPoolExecutor(threads) as pool, progress_bar('depth', len(samples)) as progress:
    for part in pool.map(bounds, samples):
      found += [] if part is None else [part]
      progress.update()
  if not found:
    return None
  low, high = min(part[0] for part in found), max(part[1] for part in found)
  margin = _MARGIN * (high - low) or 1.0  # where all is flat
  return low - margin, high + margin


def _file_of_surface(inputs: Mapping[str, Readable]) -> Readable:
  """The file of an object's surface; raises UserError where it has none."""
  for name in (XYZ, DEPTH):
    if name in inputs and (name == XYZ or INFO in inputs):
      return inputs[name]
  raise UserError(
    f"{inputs[RGB]} has neither a point cloud ('xyz') nor depth ('depth' and 'depth_info') "
    'beside it, which the model looks at; give them.'
  )


def _check_sizes(sizes: Sequence[tuple[str, tuple[int, int]]]) -> None:
  """Raises UserError where the pictures of an object are of several sizes, by their files."""
  (first, (width, height)), *others = sizes
  for file, size in others:
    if size != (width, height):
      raise UserError(
        f'{file} is {size[0]}x{size[1]} pixels but {first} is {width}x{height}; all pictures '
        'of an object must be of one size.'
      )
