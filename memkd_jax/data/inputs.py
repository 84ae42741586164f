"""What a caller may pass as images: arrays, Pillow images and files, one or several."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from memkd_jax.data.framing import RGB
from memkd_jax.data.images import CLIPPED, Sizing, as_framing, read_image, read_pillow, to_size
from memkd_jax.data.modalities import read_sample
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.errors import UserError

Files = Mapping[str, str | os.PathLike[str]]
OneImage = np.ndarray | Image.Image | str | os.PathLike[str] | Files
Images = OneImage | Iterable[OneImage]

_CHANNELS = (1, 3, 4)


def resized(images: Images, size: Sizing, bits: int) -> Iterator[np.ndarray]:
  """Brings images to one size, one after the other.

  An image is an array [H, W, 3] (RGB), [H, W, 4] (with alpha, which a `Framing` may take or
  not), [H, W] or [H, W, 1] (grey), of uint8, or of uint16 of which `bits` are used; a Pillow
  image; a file's path; or the files of an object by what they are, {'rgb': path, 'xyz': path},
  where the model looks at several, see `data.modalities`.
  A list, or whatever else can be iterated, holds such images. A bare array is

  - [H, W]: one image;
  - [A, B, C]: one image where C is 1, 3 or 4; several grey ones [N, H, W] otherwise, unless
    A is 3 or 4: that is refused, as it may be one image whose channels come first;
  - [N, H, W, C]: several.

  Args:
    images: one image or several, as said above.
    size: (height, width) that the images get, or how they lie on their canvases.
    bits: how many of 16 bits per channel are used.

  Yields:
    uint8 [height, width, 3], or with the fourth channel of `Framing`.

  Raises:
    UserError: something is no image, or it is not clear how many images an array holds.
  """
  for image in _several(images):
    yield _resized(image, size, bits)


def _several(images: Any) -> Iterable[Any]:
  if isinstance(images, (str, os.PathLike, Image.Image, Mapping)):
    return [images]
  if isinstance(images, (bytes, bytearray)) or not (
    hasattr(images, '__array__') or isinstance(images, Iterable)
  ):
    raise _not_an_image(images)
  if not hasattr(images, '__array__'):
    return images
  array = np.asarray(images)
  if array.dtype == object and array.ndim == 1:  # images of several sizes
    return list(array)
  if array.ndim == 2:
    return [array]
  if array.ndim == 4:
    return list(array)
  if array.ndim != 3:
    raise _not_an_image(array)
  if array.shape[2] in _CHANNELS:
    return [array]
  if array.shape[0] in (3, 4):
    raise UserError(
      f'An array {list(array.shape)} may be one image whose channels come first, or '
      f'{array.shape[0]} grey ones: pass np.moveaxis(images, 0, -1) for one, list(images) for '
      'several.'
    )
  return list(array)


def _resized(image: Any, size: Sizing, bits: int) -> np.ndarray:
  remarks: list[str] = []
  if isinstance(image, Mapping):
    found, _ = read_sample(_object(image), as_framing(size), bits, remarks.append)
  elif isinstance(image, (str, os.PathLike)):
    path = Path(image).expanduser()
    found, _ = read_image(path, size, bits, remarks.append)
  elif isinstance(image, Image.Image):
    framing = as_framing(size)
    found = framing(read_pillow(image, bits, remarks.append, alpha=framing.alpha))
  elif hasattr(image, '__array__'):
    found = to_size(np.asarray(image), size, bits, remarks.append)
  else:
    raise _not_an_image(image)
  if CLIPPED in remarks:
    warnings.warn(
      f'an image holds values above {2**bits - 1}, the highest of the training images '
      f'({bits} bits); they were clipped',
      stacklevel=2,
    )
  return found


def _object(files: Mapping[Any, Any]) -> Sample:
  paths = {
    name: Path(path).expanduser()
    for name, path in files.items()
    if isinstance(path, (str, os.PathLike))
  }
  if RGB not in paths or len(paths) < len(files):
    raise UserError(
      f'An object is {{{", ".join(map(repr, files))}}}; give the paths of its files, '
      "{'rgb': PATH} and, as the model looks at them, 'xyz', or 'depth' with 'depth_info', and "
      "'normals'."
    )
  return Sample(str(paths[RGB]), paths, None, GOOD)


def _not_an_image(value: Any) -> UserError:
  what = (
    f'an array {list(value.shape)}' if isinstance(value, np.ndarray) else type(value).__name__
  )
  return UserError(
    f'An image is {what}; give arrays uint8 [H, W, 3] (RGB) or [H, W], Pillow images, or paths.'
  )
