"""How an image lies on its canvas, which is what a model sees or is cut into tiles of it.

It is stretched to the canvas, or put in whole with a border around it, or its middle fills it.
And a part of it alone may count, its region of interest. What does not count, outside of the
region and in the border, is blank before anything looks at it, so that nothing there changes
what is learned or scored; and a canvas of which not all counts says so in a fourth channel.
"""

import base64
import dataclasses
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from memkd_jax.data.decoding import MAX_PIXELS
from memkd_jax.errors import UserError

RGB = 'rgb'
STRETCH, FIT, CROP = RESIZINGS = ('stretch', 'fit', 'crop')
ALPHA = 'alpha'  # of `data.roi`: what an image's own alpha channel shows

# The mean of ImageNet: zero once it is normalised, as what convolutions pad with.
BLANK = (124, 116, 104)

# (height, width) in pixels.
Size = tuple[int, int]


class Place(NamedTuple):
  """Where an image lies on its canvas; boxes are (left, upper, right, lower) in pixels.

  Attributes:
    size: (height, width) of the canvas.
    source: (left, upper, right, lower) of the part of the image that is seen.
    target: (left, upper, right, lower) of where on the canvas it lies.
  """

  size: Size
  source: tuple[int, int, int, int]
  target: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Framing:
  """How images become canvases, and maps of canvases become maps of images.

  Attributes:
    canvas: (height, width) of the canvas, which may be up to the image's (width, height).
    resize: one of `RESIZINGS`: stretched to the canvas; whole on it, as large as its aspect
      ratio lets it, in the middle; or as much of its middle as fills the canvas.
    region: bool [h, w], what of every image counts, whatever size this has: it is stretched to
      the image. None where all of it does.
    alpha: whether of an image counts what its alpha channel shows, by half at least.
    inputs: the names of the pictures of an object that lie on its canvas, see `modalities`;
      several lie one behind the other, four channels each.
    depth_range: the heights that become 0 and 255 in the picture of its depth.
  """

  canvas: Size | Callable[[tuple[int, int]], Size]
  resize: str = STRETCH
  region: np.ndarray | None = None
  alpha: bool = False
  inputs: tuple[str, ...] = (RGB,)
  depth_range: tuple[float, float] | None = None

  @property
  def channels(self) -> int:
    """Of a canvas: 3, or 4 where not all of it may count; 4 of each of several pictures."""
    if self.inputs != (RGB,):
      return 4 * len(self.inputs)
    return 4 if self.resize == FIT or self.alpha or self.region is not None else 3

  def place(self, original: tuple[int, int]) -> Place:
    """Where an image of (width, height) pixels lies.

    Raises:
      UserError: the canvas would have more than `MAX_PIXELS`.
    """
    size = self.canvas(original) if callable(self.canvas) else self.canvas
    (width, height), (rows, columns) = original, size
    if rows * columns > MAX_PIXELS:
      raise UserError(
        f'An image of {width}x{height} pixels would become one of {columns}x{rows} to be cut '
        f'into tiles, more than {MAX_PIXELS:,} pixels; give fewer --config.data.tiles, or a '
        'larger --config.data.tile_size.'
      )
    source, target = (0, 0, width, height), (0, 0, columns, rows)
    if self.resize == FIT:
      scale = min(columns / width, rows / height)
      target = _middle(target, width * scale, height * scale)
    elif self.resize == CROP:
      scale = min(width / columns, height / rows)
      source = _middle(source, columns * scale, rows * scale)
    return Place(size, source, target)

  def __call__(self, image: Image.Image) -> np.ndarray:
    """The canvas of an image, resized bilinearly with antialiasing.

    Args:
      image: RGB; RGBA where alpha says what counts.

    Returns:
      uint8 [H, W, 3], or [H, W, 4] with 255 in the last channel where a pixel counts, which is
      where any of the image's that it covers does, and 0 elsewhere.

    Raises:
      UserError: nothing of it counts, or the canvas would be too large.
    """
    if self.channels == 3:
      return self.lay(image)
    if self.inputs != (RGB,):
      raise UserError(
        f'The model looks at {", ".join(self.inputs)}; an image alone does not tell all that.'
      )
    place = self.place(image.size)
    seen = self._seen(place, image)
    if not seen.any():
      raise UserError(self._why_nothing(image))
    outside = self._outside(image)
    if outside is not None:  # blank at its own size, so that nothing beside leaks in
      image = image.convert('RGB') if image.mode != 'RGB' else image.copy()
      image.paste(BLANK, mask=Image.fromarray(outside))
    canvas = np.empty((*place.size, 4), np.uint8)
    canvas[..., :3] = self.lay(image, BLANK)[..., :3]
    canvas[..., 3] = np.where(seen, 255, 0)
    return canvas

  def layer(self, picture: Image.Image, valid: np.ndarray | None = None) -> np.ndarray:
    """The canvas of one of several pictures of an object, uint8 [H, W, 4].

    Args:
      picture: the picture, of Pillow's mode RGB.
      valid: bool, of its size, where it shows what was measured; everywhere if None. What was
        filled in elsewhere is seen, but does not count.

    Raises:
      UserError: see `__call__`.
    """
    canvas = dataclasses.replace(self, inputs=(RGB,))(picture)
    seen = seen_of(canvas)
    counts = np.ones(canvas.shape[:2], bool) if seen is None else seen
    if valid is not None:
      place = self.place(picture.size)
      left, upper, right, lower = place.target
      mask = Image.fromarray(np.where(valid, 255, 0).astype(np.uint8))
      shown = np.zeros_like(counts)
      size = (right - left, lower - upper)
      shown[upper:lower, left:right] = _any_inside(mask, size, place.source)
      counts = counts & shown
    found = np.empty((*counts.shape, 4), np.uint8)
    found[..., :3], found[..., 3] = canvas[..., :3], np.where(counts, 255, 0)
    return found

  def lay(self, image: Image.Image, border: tuple[int, ...] | int = 0) -> np.ndarray:
    """An image, or a mask, on its canvas, whatever counts of it: uint8 [H, W, ...].

    Args:
      image: the image or mask, of any mode that Pillow resizes.
      border: the colour of what lies around it.
    """
    (rows, columns), source, target = self.place(image.size)
    whole = target == (0, 0, columns, rows)
    if whole and (columns, rows) == image.size:
      return np.asarray(image)  # one copy of what may be large
    if source != (0, 0, *image.size):
      image = image.crop(source)  # or resizing would look at what lies beside
    size = (target[2] - target[0], target[3] - target[1])
    resized = image.resize(size, Image.Resampling.BILINEAR)
    if whole:
      return np.asarray(resized)
    canvas = Image.new(image.mode, (columns, rows), border)
    canvas.paste(resized, target[:2])
    return np.asarray(canvas)

  def to_image(
    self,
    map_: np.ndarray,
    original: tuple[int, int],
    size: tuple[int, int] | None = None,
    seen: np.ndarray | None = None,
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Brings the map of a canvas to the image.

    Args:
      map_: the anomaly map of the canvas, [H, W].
      original: (width, height) of the image in pixels.
      size: (width, height) of the result; the original's if None.
      seen: bool [H, W], what of the canvas counts, see `seen_of`; all if None.

    Returns:
      (float32 [height, width], bilinear, and `floor` of the map where nothing was looked at;
      bool [height, width], what was looked at, or None for all).
    """
    width, height = size or original
    place = self.place(original)
    left, upper, right, lower = place.target
    box = _scaled(place.source, original, (width, height))
    inner = (slice(box[1], box[3]), slice(box[0], box[2]))
    part = resize_map(map_[upper:lower, left:right], box[3] - box[1], box[2] - box[0])
    shown = None
    if seen is not None and not seen[upper:lower, left:right].all():
      counting = Image.fromarray(seen[upper:lower, left:right])
      shown = np.asarray(counting.resize(part.shape[::-1], Image.Resampling.NEAREST), bool)
    if part.shape != (height, width):
      whole, around = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
      whole[inner], around[inner] = part, True if shown is None else shown
      part, shown = whole, around
    if self.region is not None:  # exact, where the canvas knows it by its own pixels
      inside = _at_size(self.region, (width, height))
      shown = inside if shown is None else shown & inside
    return (part if shown is None else filled(part, shown)), shown

  def restored(self, canvas: np.ndarray, original: tuple[int, int]) -> Image.Image:
    """What was seen of an image of (width, height), where it lies in it: RGB, blank beside."""
    _, source, target = self.place(original)
    part = Image.fromarray(canvas[target[1] : target[3], target[0] : target[2], :3])
    if source == (0, 0, *original):
      return part
    scale = (part.width / (source[2] - source[0]), part.height / (source[3] - source[1]))
    size = (round(original[0] * scale[0]), round(original[1] * scale[1]))
    whole = Image.new('RGB', size, BLANK)
    whole.paste(part, (round(source[0] * scale[0]), round(source[1] * scale[1])))
    return whole

  def to_position(self, row: int, column: int, original: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the pixel of an image that lies in the middle of one of its canvas."""
    _, source, target = self.place(original)
    found = []
    for axis, index in ((1, row), (0, column)):
      scale = (source[axis + 2] - source[axis]) / (target[axis + 2] - target[axis])
      found.append(int(source[axis] + (index + 0.5 - target[axis]) * scale))
    return found[0], found[1]

  def describe_share(self) -> str:
    """How much of an image its region is, a sentence behind another; '' where it has none."""
    if self.region is None:
      return ''
    return f' The region of interest is {100 * self.region.mean():.3g}% of an image.'

  def to_json(self) -> dict[str, Any] | None:
    """Values for a file, the region as a PNG in base64; None where images are stretched."""
    if self.resize == STRETCH and self.channels == 3:
      return None
    further: dict[str, Any] = {}
    if self.inputs != (RGB,):
      further = {'inputs': list(self.inputs), 'depth_range': self.depth_range}
    region: str | None = ALPHA if self.alpha else None
    if self.region is not None:
      stream = io.BytesIO()
      Image.fromarray(self.region).save(stream, 'PNG')
      region = base64.b64encode(stream.getvalue()).decode('ascii')
    return {'resize': self.resize, 'roi': region} | further

  @classmethod
  def of_json(cls, canvas: Any, value: dict[str, Any] | None) -> 'Framing':
    """The inverse of `to_json`.

    Args:
      canvas: (height, width) of the canvas, or a function that gives it of an image's (width,
        height).
      value: the JSON value that `to_json` gave; None for a canvas to which images are
        stretched.

    Raises:
      ValueError, KeyError, TypeError: the values are none of a framing.
    """
    if value is None:
      return cls(canvas)
    resize, region = value['resize'], value['roi']
    if resize not in RESIZINGS:
      raise ValueError(f'resize is {resize}')
    inputs, depths = tuple(map(str, value.get('inputs', (RGB,)))), value.get('depth_range')
    depth_range = None if depths is None else (float(depths[0]), float(depths[1]))
    found = cls(canvas, resize, None, region == ALPHA, inputs, depth_range)
    if region is None or region == ALPHA:
      return found
    content = base64.b64decode(region, validate=True)
    try:
      with Image.open(io.BytesIO(content), formats=['PNG']) as png:
        return dataclasses.replace(found, region=np.asarray(png.convert('1')))
    # Pillow's plugins raise nearly anything on broken files.
    except Exception as error:
      raise ValueError(f'its region of interest is no picture ({error})') from error

  def _seen(self, place: Place, image: Image.Image) -> np.ndarray:
    """Which pixels of the canvas count, bool [H, W]."""
    target = place.target
    size = (target[2] - target[0], target[3] - target[1])
    part = np.ones(size[::-1], bool)
    if self.region is not None:
      scale = np.tile(np.divide(self.region.shape[::-1], image.size), 2)
      whole = Image.fromarray(self.region).convert('L')
      edges = np.minimum(np.multiply(place.source, scale), whole.size * 2)
      left, upper, right, lower = map(float, edges)
      part &= _any_inside(whole, size, (left, upper, right, lower))
    if (shown := self._alpha(image)) is not None:
      part &= _any_inside(shown, size, place.source)
    seen = np.zeros(place.size, bool)
    seen[target[1] : target[3], target[0] : target[2]] = part
    return seen

  def _outside(self, image: Image.Image) -> np.ndarray | None:
    """Which of an image's pixels do not count, bool at its own size; None for none."""
    outside = None
    if self.region is not None:
      outside = ~_at_size(self.region, image.size)
    if (shown := self._alpha(image)) is not None:
      hidden = ~np.asarray(shown, bool)
      outside = hidden if outside is None else outside | hidden
    return outside

  def _alpha(self, image: Image.Image) -> Image.Image | None:
    """What an image's alpha channel shows, 255 or 0; None where it does not matter."""
    if not self.alpha or 'A' not in image.getbands():
      return None
    return image.getchannel('A').point(lambda value: 255 * (value >= 128))

  def _why_nothing(self, image: Image.Image) -> str:
    shown = self._alpha(image)
    if shown is not None and shown.getbbox() is None:
      return (
        'Nothing of an image counts, because its alpha channel hides all of it '
        '(--config.data.roi=alpha); leave it out, or make visible what is to be looked at.'
      )
    return (
      'Nothing of an image counts: what is looked at of it (--config.data.resize) holds none '
      'of its region of interest (--config.data.roi); leave it out, or choose another of both.'
    )


def _at_size(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """A region where an image has a size of (width, height): bool [height, width]."""
  return np.asarray(Image.fromarray(region).resize(size, Image.Resampling.NEAREST), bool)


def _any_inside(
  mask: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
  """Where any of a mask's pixels is set that a pixel covers: bool, of (width, height)."""
  return np.asarray(mask.resize(size, Image.Resampling.BOX, box=box)) > 0


def seen_of(canvas: np.ndarray) -> np.ndarray | None:
  """What of a canvas counts, bool [..., H, W]; None where it has three channels: all.

  Where several pictures lie on it, what counts of any of them.
  """
  if canvas.shape[-1] == 3:
    return None
  return np.asarray((canvas[..., 3::4] > 0).any(axis=-1))


def filled(map_: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """A map with its `floor` where nothing was looked at: [H, W], of any dtype."""
  return np.where(seen, map_, np.asarray(floor(map_, seen), map_.dtype))


def floor(map_: np.ndarray, seen: np.ndarray) -> float:
  """A value that no pixel falls below that was looked at, and 0 at most."""
  return min(0.0, float(map_.min(where=seen, initial=np.inf)))


def resize_map(map_: np.ndarray, height: int, width: int) -> np.ndarray:
  """A map [H, W] as float32 [height, width]: bilinear, with antialiasing where it shrinks."""
  if map_.shape == (height, width):
    return map_.astype(np.float32, copy=False)  # what may be large is not copied
  image = Image.fromarray(map_.astype(np.float32, copy=False))
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _middle(
  box: tuple[int, int, int, int], width: float, height: float
) -> tuple[int, int, int, int]:
  """A box of about that size in the middle of another, which begins at (0, 0)."""
  columns = min(box[2], max(1, round(width)))
  rows = min(box[3], max(1, round(height)))
  left, upper = (box[2] - columns) // 2, (box[3] - rows) // 2
  return left, upper, left + columns, upper + rows


def _scaled(
  box: tuple[int, int, int, int], original: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
  """A box of an image of (width, height) pixels where the image has another size."""
  edges = [round(box[i] * size[i % 2] / original[i % 2]) for i in range(4)]
  left, upper = (min(edges[axis], size[axis] - 1) for axis in (0, 1))
  return left, upper, max(left + 1, edges[2]), max(upper + 1, edges[3])
