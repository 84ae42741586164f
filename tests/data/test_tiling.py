"""Tiles: how images are cut, and that no seam is seen where maps are put together."""

import numpy as np
import pytest

from memkd_jax.data.mosaic import Mosaic
from memkd_jax.data.tiling import Tiling

TILINGS = {
  'grid': Tiling((32, 48), grid=(3, 2), overlap=0.25),
  'no overlap': Tiling((32, 48), grid=(3, 2)),
  'half': Tiling((32, 32), grid=(4, 3), overlap=0.5),
  'odd half': Tiling((33, 35), pixels=(33, 35), overlap=0.5),
  'pixels': Tiling((32, 32), pixels=(32, 32), overlap=0.2),
  'smaller': Tiling((32, 32), pixels=(64, 48), overlap=0.1),
  'larger': Tiling((64, 64), pixels=(32, 32), overlap=0.3),
  'whole': Tiling((32, 64)),
}
every_tiling = pytest.mark.parametrize('tiling', TILINGS.values(), ids=TILINGS)
ORIGINAL = (131, 97)


@every_tiling
def test_tiles_cover_the_canvas_and_share_what_is_asked_for(tiling):
  height, width = canvas = tiling.canvas(ORIGINAL)
  covered = np.zeros(canvas, int)
  places = tiling.places(canvas)
  for y, x in places:
    assert 0 <= y <= height - tiling.size[0] and 0 <= x <= width - tiling.size[1]
    covered[y : y + tiling.size[0], x : x + tiling.size[1]] += 1
  assert covered.min() == 1
  for axis in (0, 1):
    starts = sorted({place[axis] for place in places})
    shared = tiling.size[axis] - np.diff(starts)
    assert (shared >= round(tiling.overlap * tiling.size[axis]) - 1).all()
  if tiling.pixels is None:
    assert len(places) == tiling.grid[0] * tiling.grid[1]


@every_tiling
def test_weights_sum_to_one_and_have_no_step(tiling):
  canvas = tiling.canvas(ORIGINAL)
  total = np.zeros(canvas)
  rows, columns = tiling.weights(canvas)
  for index, (y, x) in enumerate(tiling.places(canvas)):
    row, column = divmod(index, len(columns))
    weight = rows[row][:, None] * columns[column]
    total[y : y + tiling.size[0], x : x + tiling.size[1]] += weight
  np.testing.assert_allclose(total, 1, atol=1e-6)
  if tiling.overlap >= 0.2:
    assert max(np.abs(np.diff(weights, axis=1)).max() for weights in (rows, columns)) < 0.3


def scored(tiling, canvases, look, batch=3):
  """A mosaic to whose tiles a function was applied, as a detector does."""
  mosaic = Mosaic(tiling, canvases)
  for begin in range(0, len(mosaic), batch):
    maps = np.stack([look(tile) for tile in mosaic[begin : begin + batch]])
    mosaic.add(begin, maps, maps.max((1, 2)))
  return mosaic


@every_tiling
def test_what_hangs_on_each_pixel_alone_shows_no_seam(tiling, rng):
  """So a constant stays one, and a ramp, and noise."""
  height, width = tiling.canvas(ORIGINAL)
  constant = np.full((height, width, 3), 7, np.uint8)
  ramp = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None], height, 0)
  noise = rng.integers(0, 256, (height, width, 3), np.uint8)
  canvases = [constant, np.stack([ramp] * 3, -1), noise]
  mosaic = scored(tiling, canvases, lambda tile: tile[..., 0].astype(np.float32))
  for canvas, map_ in zip(canvases, mosaic.maps, strict=True):
    assert map_.dtype == np.float32
    np.testing.assert_allclose(map_, canvas[..., 0], atol=1e-4)
  np.testing.assert_array_equal(mosaic.scores, [c[..., 0].max() for c in canvases])


def test_far_from_its_border_a_tile_is_alone(rng):
  """What a tile makes of its middle, where no other lies, stays as it is to the bit."""
  tiling = Tiling((32, 32), grid=(1, 3), overlap=0.25)
  canvas = rng.integers(0, 256, (*tiling.canvas(ORIGINAL), 3), np.uint8)
  kept = rng.normal(size=(3, 32, 32)).astype(np.float32)
  given = iter(kept)
  (map_,) = scored(tiling, [canvas], lambda tile: next(given)).maps
  np.testing.assert_array_equal(map_[:, :24], kept[0][:, :24])
  np.testing.assert_array_equal(map_[:, 32:48], kept[1][:, 8:24])


def test_one_tile_is_the_whole_image_to_the_bit(rng):
  whole = Tiling((32, 64))
  assert whole.is_whole and whole.to_json() is None
  images = rng.integers(0, 256, (4, 32, 64, 3), np.uint8)
  assert whole.cut_all(images) is images
  kept = rng.normal(size=(4, 32, 64)).astype(np.float32)
  given = iter(kept)
  mosaic = scored(whole, images, lambda tile: next(given))
  np.testing.assert_array_equal(mosaic.maps, kept)
  np.testing.assert_array_equal(mosaic[1:3], images[1:3])


def test_images_of_several_sizes_keep_theirs(rng):
  tiling = Tiling((32, 32), pixels=(32, 32), overlap=0.2)
  canvases = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((32, 90), (70, 40))]
  assert [tiling.canvas(c.shape[1::-1]) for c in canvases] == [(32, 90), (70, 40)]
  mosaic = scored(tiling, canvases, lambda tile: tile[..., 1].astype(np.float32))
  assert mosaic.maps.dtype == object
  assert [map_.shape for map_ in mosaic.maps] == [(32, 90), (70, 40)]
  assert np.bincount(mosaic.owners).tolist() == [4, 6]
  tiles = tiling.cut_all(tiling.stacked(canvases))
  np.testing.assert_array_equal(tiles, mosaic[: len(mosaic)])
  alike = tiling.stacked(canvases[:1] * 2)
  assert alike.shape == (2,) and alike[0].shape == (32, 90, 3)


def test_an_image_smaller_than_a_tile_is_enlarged():
  assert Tiling((64, 64), pixels=(256, 256)).canvas((100, 300)) == (75, 64)


@every_tiling
def test_a_file_holds_it(tiling):
  again = Tiling.of_json(list(tiling.size), tiling.to_json())
  assert (again.size, again.grid, again.pixels) == (tiling.size, tiling.grid, tiling.pixels)
  assert again.is_whole or again.overlap == tiling.overlap


@pytest.mark.parametrize(
  'value',
  [
    {'tiles': [0, 2], 'tile_size': None, 'overlap': 0.1},
    {'tiles': None, 'tile_size': [8, 8, 8], 'overlap': 0.1},
    {'tiles': [1, 2], 'tile_size': None, 'overlap': 0.7},
    {'tiles': [1, 2], 'tile_size': None, 'overlap': float('nan')},
    {'tiles': [1, 2]},
    'tiles',
  ],
)
def test_a_file_that_holds_none_is_refused(value):
  with pytest.raises((ValueError, KeyError, TypeError)):
    Tiling.of_json(32, value)


def test_without_images_there_are_no_maps():
  mosaic = Mosaic(Tiling((32, 32)), [])
  assert (len(mosaic), mosaic.maps.shape, mosaic.scores.shape) == (0, (0, 32, 32), (0,))


def test_a_sentence_counts_them():
  canvases = np.zeros((3, 56, 80, 3), np.uint8)
  tiling = Tiling((32, 32), (2, 3), None, 0.25)
  assert tiling.describe(canvases) == ' The normal images are 18 tiles of 32 x 32 pixels.'
  assert Tiling((56, 80)).describe(canvases) == ''
