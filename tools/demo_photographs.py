"""What the demo's teacher learns from: views of photographs that two packages bundle.

No pixel that the demo tests on is ever read here: of the demo's textures only the part is
kept from which training crops come.
"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from memkd_jax.data.benchmarks import demo_textures
from memkd_jax.errors import UserError

# Package, its folder of images, and those of them that are photographs.
_BUNDLED = (
  (
    'skimage',
    'data',
    (
      'astronaut.png',
      'brick.png',
      'camera.png',
      'cell.png',
      'chelsea.png',
      'clock_motion.png',
      'coffee.png',
      'coins.png',
      'grass.png',
      'gravel.png',
      'hubble_deep_field.jpg',
      'ihc.png',
      'moon.png',
      'motorcycle_left.png',
      'motorcycle_right.png',
      'page.png',
      'retina.jpg',
      'rocket.jpg',
      'text.png',
    ),
  ),
  ('sklearn', 'datasets/images', ('china.jpg', 'flower.jpg')),
)

_LARGEST_STEP = 1.5  # pixels of a photograph for one of a view
_SMALLEST_STEP = 0.6
_SHIFT = 0.12  # of a view's side, in both directions
_ANGLE = 0.35  # radians, in both directions
_NOISE = 8.0  # grey values, largest standard deviation
_GREY = 0.5  # share of views without colour: the demo's textures have none


def load() -> dict[str, np.ndarray]:
  """Reads the photographs, without their parts that the demo tests on.

  Returns:
    {'astronaut': uint8 [H, W, 3], ...}.

  Raises:
    UserError: a package is missing, or does not bundle one of them.
  """
  photographs = {}
  for package, folder, names in _BUNDLED:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
      raise UserError(f'The photographs of {package} are needed: pip install "memkd_jax[dev]".')
    for name in names:
      path = Path(spec.origin).parent / folder / name
      if not path.is_file():
        raise UserError(f'{package} bundles no {name} ({path}); install another version of it.')
      with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
      if path.stem in demo_textures.CATEGORIES:
        pixels = demo_textures.training_part(pixels)
      photographs[path.stem] = pixels
  return photographs


def draw_pairs(
  photographs: list[np.ndarray],
  together: int,
  apart: int,
  side: int,
  generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws places, and two views of each that differ in shift, scale, angle and light.

  Args:
    photographs: uint8 [H, W, 3] each.
    together: places in one photograph, so that a place's neighbours are told from it too.
    apart: photographs, drawn without repetition.
    side: of a view, in pixels.
    generator: of random numbers.

  Returns:
    The views, float32 [2, apart * together, side, side, 3] in 0 to 255, and the same ones
    in the photographs' own light.
  """
  margin = _margin(side)
  plain = np.empty((2, apart * together, side, side, 3), np.float32)
  views = np.empty_like(plain)
  chosen = generator.choice(len(photographs), apart, replace=False)
  for i, index in enumerate(np.repeat(chosen, together)):
    photograph = photographs[index]
    largest = np.array(photograph.shape[:2]) - 1 - margin
    place = generator.uniform(margin, largest)
    for k in range(2):
      plain[k, i] = _view(photograph, place, side, generator)
      views[k, i] = _relight(plain[k, i], generator)
  return views, plain


def _margin(side: int) -> float:
  """How far a view reaches from its place at most, with the largest step."""
  return _LARGEST_STEP * (side / 2 * np.sqrt(2) + _SHIFT * side) + 1


def _view(
  photograph: np.ndarray, place: np.ndarray, side: int, generator: np.random.Generator
) -> np.ndarray:
  """float32 [side, side, 3], bilinear."""
  shift = generator.uniform(-_SHIFT, _SHIFT, 2) * side
  step = np.exp(generator.uniform(np.log(_SMALLEST_STEP), np.log(_LARGEST_STEP)))
  angle = generator.uniform(-_ANGLE, _ANGLE)
  ahead = np.arange(side) - (side - 1) / 2
  rows, columns = step * (ahead[:, None] + shift[0]), step * (ahead[None, :] + shift[1])
  y = place[0] + np.cos(angle) * rows - np.sin(angle) * columns
  x = place[1] + np.sin(angle) * rows + np.cos(angle) * columns
  top, left = np.floor(y).astype(int), np.floor(x).astype(int)
  down = (y - top).astype(np.float32)[..., None]
  right = (x - left).astype(np.float32)[..., None]
  above = photograph[top, left] * (1 - right) + photograph[top, left + 1] * right
  below = photograph[top + 1, left] * (1 - right) + photograph[top + 1, left + 1] * right
  return above * (1 - down) + below * down


def _relight(view: np.ndarray, generator: np.random.Generator) -> np.ndarray:
  """Another contrast, brightness, tint, and some noise."""
  if generator.random() < _GREY:
    view = np.repeat(view @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=-1)
  else:
    view = view * np.exp(generator.uniform(-0.2, 0.2, 3)).astype(np.float32)
  mean = view.mean()
  contrast = np.float32(np.exp(generator.uniform(-0.5, 0.5)))
  view = mean + contrast * (view - mean) + np.float32(generator.uniform(-40, 40))
  noise = generator.standard_normal((*view.shape[:2], 1), np.float32)
  view = view + np.float32(generator.uniform(0, _NOISE)) * noise
  return np.clip(view, 0, 255)
