import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from memkd_jax.data.framing import BLANK, Framing, filled, seen_of
from memkd_jax.data.images import read_image, read_region, to_size
from memkd_jax.data.tiling import Tiling, describe_size, framing_of
from memkd_jax.errors import UserError


def picture(rng, width, height, mode='RGB'):
  channels = (len(mode),) if len(mode) > 1 else ()
  return Image.fromarray(rng.integers(0, 256, (height, width, *channels), np.uint8), mode)


@pytest.mark.parametrize(
  ('resize', 'original', 'source', 'target'),
  [
    ('stretch', (30, 90), (0, 0, 30, 90), (0, 0, 64, 32)),
    ('fit', (128, 64), (0, 0, 128, 64), (0, 0, 64, 32)),
    ('fit', (30, 90), (0, 0, 30, 90), (26, 0, 37, 32)),
    ('fit', (500, 10), (0, 0, 500, 10), (0, 15, 64, 16)),
    ('fit', (5000, 10), (0, 0, 5000, 10), (0, 15, 64, 16)),
    ('crop', (128, 64), (0, 0, 128, 64), (0, 0, 64, 32)),
    ('crop', (30, 90), (0, 37, 30, 52), (0, 0, 64, 32)),
    ('crop', (500, 10), (240, 0, 260, 10), (0, 0, 64, 32)),
  ],
)
def test_where_an_image_lies(resize, original, source, target):
  assert Framing((32, 64), resize).place(original) == ((32, 64), source, target)


def test_an_image_that_fits_has_a_border_that_does_not_count(rng):
  image = picture(rng, 40, 80)
  canvas = Framing((32, 64), 'fit')(image)
  assert canvas.shape == (32, 64, 4)
  seen = seen_of(canvas)
  assert seen.sum() == 16 * 32 and seen[:, 24:40].all()
  expected = image.resize((16, 32), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(canvas[:, 24:40, :3], np.asarray(expected))
  assert (canvas[~seen][:, :3] == BLANK).all()


def test_the_middle_fills_a_canvas(rng):
  image = picture(rng, 90, 30)
  canvas = Framing((32, 64), 'crop')(image)
  middle = image.crop((15, 0, 75, 30)).resize((64, 32), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(canvas, np.asarray(middle))


def test_what_lies_outside_of_a_region_changes_no_bit(rng):
  region = np.zeros((10, 20), bool)
  region[2:7, 5:16] = True
  one, other = (np.asarray(picture(rng, 100, 70)) for _ in range(2))
  inside = np.asarray(Image.fromarray(region).resize((100, 70), Image.Resampling.NEAREST))
  mixed = np.where(inside[..., None], one, other)
  assert 0 < inside.sum() < inside.size
  for resize in ('stretch', 'fit', 'crop'):
    framing = Framing((32, 32), resize, region)
    a, b = framing(Image.fromarray(one)), framing(Image.fromarray(mixed))
    np.testing.assert_array_equal(a, b)
    assert 0 < seen_of(a).sum() < 32 * 32


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'RGB'])
def test_an_alpha_channel_says_what_counts(mode, tmp_path, rng):
  if mode == 'P':
    image = picture(rng, 16, 16, 'L').convert('P')
    alpha = np.asarray(image) == 7
    alpha[3:9, 5:8] = True
    image = Image.fromarray(np.where(alpha, 7, 9).astype(np.uint8)).convert('P')
    image.save(tmp_path / 'x.png', transparency=9)
  else:
    image = picture(rng, 16, 16, mode)
    alpha = np.full((16, 16), True)
    if mode != 'RGB':
      alpha = np.asarray(image.getchannel('A')) >= 128
    image.save(tmp_path / 'x.png')
  framing = Framing((16, 16), alpha=True)
  canvas, _ = read_image(tmp_path / 'x.png', framing)
  np.testing.assert_array_equal(seen_of(canvas), alpha)
  expected = np.where(
    alpha[..., None], np.asarray(Image.open(tmp_path / 'x.png').convert('RGB')), BLANK
  )
  np.testing.assert_array_equal(canvas[..., :3], expected)
  if mode == 'RGBA':
    np.testing.assert_array_equal(to_size(np.asarray(image), framing), canvas)
    deep = np.asarray(image).astype(np.uint16) * 257
    np.testing.assert_array_equal(to_size(deep, framing), canvas)
    of_12_bits = np.asarray(image).astype(np.uint16) * 16
    np.testing.assert_array_equal(seen_of(to_size(of_12_bits, framing, 12)), alpha)


def test_an_image_of_which_nothing_counts_is_named(tmp_path):
  Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / 'x.png')
  with pytest.raises(UserError, match=r'x\.png: Nothing of an image counts, because its alpha'):
    read_image(tmp_path / 'x.png', Framing((8, 8), alpha=True))
  left = np.zeros((1, 9), bool)
  left[0, 0] = True
  with pytest.raises(UserError, match=r'what is looked at of it .* holds none'):
    Framing((8, 8), 'crop', left)(Image.new('RGB', (90, 10)))
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / 'roi.png')
  with pytest.raises(UserError, match=r'roi\.png marks nothing'):
    read_region(tmp_path / 'roi.png')


@pytest.mark.parametrize(
  'save',
  [
    lambda grey, path: grey.save(path),
    lambda grey, path: grey.point(lambda v: v // 255).save(path),  # 0 and 1
    lambda grey, path: grey.point(lambda v: 40 + v * 215 // 255).save(path),
    lambda grey, path: grey.convert('RGB').quantize(2).save(path),  # white may be index 0
    lambda grey, path: Image.merge('LA', (grey, grey)).save(path),  # on what is transparent
    lambda grey, path: grey.convert('RGB').save(path.with_suffix('.jpg'), quality=95),
  ],
)
def test_a_region_is_what_is_bright(save, tmp_path):
  expected = np.zeros((40, 60), bool)
  expected[8:24, 16:48] = True
  grey = Image.fromarray(np.where(expected, 255, 0).astype(np.uint8))
  path = tmp_path / 'roi.png'
  save(grey, path)
  (file,) = tmp_path.iterdir()
  np.testing.assert_array_equal(read_region(file), expected)


def test_a_region_is_upright_and_of_bounded_size(tmp_path):
  grey = Image.new('L', (5000, 10))
  grey.paste(255, (0, 0, 2500, 10))
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6  # is to be turned to the right
  grey.save(tmp_path / 'roi.png', exif=exif)
  region = read_region(tmp_path / 'roi.png')
  assert region.shape == (4096, 8)
  assert region[:2048].all() and not region[2048:].any()


def test_thin_parts_of_a_region_count(rng):
  region = np.zeros((512, 512), bool)
  region[100, :] = True
  canvas = Framing((32, 32), region=region)(picture(rng, 512, 512))
  assert seen_of(canvas).any(axis=1).nonzero()[0].tolist() == [6]
  map_, shown = Framing((32, 32), region=region).to_image(
    np.ones((32, 32)), (512, 512), seen=seen_of(canvas)
  )
  np.testing.assert_array_equal(shown, region)
  np.testing.assert_array_equal(map_ > 0, region)


@pytest.mark.parametrize('resize', ['stretch', 'fit', 'crop'])
def test_what_was_seen_lies_where_it_lay(resize, rng):
  smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((90, 60))
  framing = Framing((64, 64), resize)
  shown = framing.restored(framing(smooth), (90, 60)).resize((90, 60))
  difference = np.abs(np.asarray(shown, int) - np.asarray(smooth, int)).max(axis=-1)
  inside = np.ones((60, 90), bool)
  if resize == 'crop':
    inside[:, :15] = inside[:, 75:] = False
    assert (np.asarray(shown)[:, :14] == BLANK).all()
  assert difference[inside].mean() < 4


@pytest.mark.parametrize('resize', ['stretch', 'fit', 'crop'])
@pytest.mark.parametrize('size', [(120, 60), (60, 90), (30, 45)])
def test_maps_come_back_to_the_image(resize, size):
  """A ramp of the image's columns is that ramp again, where it was looked at."""
  original = (60, 90) if size != (120, 60) else (120, 60)
  framing = Framing((64, 48), resize)
  (height, width), source, target = framing.place(original)
  map_ = np.full((height, width), 1e6)
  across = (np.arange(target[2] - target[0]) + 0.5) / (target[2] - target[0])
  columns = source[0] + across * (source[2] - source[0])
  map_[target[1] : target[3], target[0] : target[2]] = columns
  found, seen = framing.to_image(map_, original, size)
  assert found.shape == size[::-1]
  scale = original[0] / size[0]
  expected = np.broadcast_to((np.arange(size[0]) + 0.5) * scale, found.shape)
  inside = np.ones(found.shape, bool) if seen is None else seen
  assert inside.any() and inside.all() == (resize != 'crop')
  inner = inside.copy()
  inner[:, [0, -1]] = False  # where bilinear sampling ends
  inner &= np.roll(inside, 2, axis=1) & np.roll(inside, -2, axis=1)
  assert np.abs(found - expected)[inner].max() < 1.5 * scale
  assert (found[~inside] <= 0).all()


def test_what_was_not_looked_at_is_below_all_else(rng):
  map_ = rng.normal(size=(8, 8))
  seen = rng.random((8, 8)) < 0.5
  out = filled(map_, seen)
  np.testing.assert_array_equal(out[seen], map_[seen])
  assert (out[~seen] == min(0, map_[seen].min())).all()
  found, shown = Framing((8, 8)).to_image(out, (16, 16), seen=seen)
  np.testing.assert_array_equal(shown, np.repeat(np.repeat(seen, 2, 0), 2, 1))
  assert (found[~shown] <= found[shown].min()).all()


@pytest.mark.parametrize('resize', ['stretch', 'fit', 'crop'])
def test_positions_are_those_of_the_image(resize, rng):
  framing, original = Framing((32, 64), resize), (90, 70)
  image = np.zeros((70, 90, 3), np.uint8)
  image[40:44, 50:54] = 255
  canvas = framing(Image.fromarray(image))[..., 0].astype(int)
  if resize == 'fit':
    canvas[:, :11] = canvas[:, -11:] = 0  # the border
  row, column = np.unravel_index(canvas.argmax(), canvas.shape)
  found = framing.to_position(int(row), int(column), original)
  assert np.abs(np.subtract(found, (42, 52))).max() <= 3


@pytest.mark.parametrize(
  'framing',
  [
    Framing((8, 8)),
    Framing((8, 8), 'fit'),
    Framing((8, 8), 'crop', alpha=True),
    Framing((8, 8), 'stretch', np.eye(5, 9, dtype=bool)),
  ],
)
def test_values_of_a_file_are_the_framing(framing):
  values = json.loads(json.dumps(framing.to_json()))
  again = Framing.of_json((8, 8), values)
  assert (again.resize, again.alpha, again.channels) == (
    framing.resize,
    framing.alpha,
    framing.channels,
  )
  if framing.region is None:
    assert again.region is None
  else:
    np.testing.assert_array_equal(again.region, framing.region)


@pytest.mark.parametrize(
  'values',
  [{}, {'resize': 'fit'}, {'resize': 'zoom', 'roi': None}, {'resize': 'fit', 'roi': 'AAAA'}],
)
def test_values_that_are_none_of_a_framing(values):
  with pytest.raises((ValueError, KeyError)):
    Framing.of_json((8, 8), values)


def test_tiles_of_which_nothing_counts_are_left_out(rng):
  tiling = Tiling((32, 32), (2, 3), None, 0.0)
  canvas = np.zeros((64, 96, 4), np.uint8)
  canvas[40:50, 30:70, 3] = 255
  assert [index for index, _ in tiling.seen_places(canvas)] == [3, 4, 5]
  tiles = tiling.cut_all(canvas[None])
  np.testing.assert_array_equal(tiles, tiling.cut(canvas)[3:])
  masks = rng.random((1, 64, 96)) < 0.5
  np.testing.assert_array_equal(tiling.cut_all(canvas[None], masks), tiling.cut(masks[0])[3:])
  assert tiling.describe(canvas[None]).startswith(' The normal images are 3 tiles')


def test_the_screen_says_how_images_lie():
  data = {'image_size': 64, 'resize': 'fit', 'roi': '/a/roi.png'}
  assert (
    describe_size(data) == '64 x 64 pixels, whole images with a border, a region of interest'
  )
  assert framing_of(data, np.ones((2, 2), bool)).channels == 4
  assert framing_of({'image_size': 64}).channels == 3
