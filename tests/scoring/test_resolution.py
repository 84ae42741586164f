import numpy as np
import pytest
from PIL import Image

from memkd_jax.data import folder
from memkd_jax.data.framing import resize_map
from memkd_jax.data.splits import load_split
from memkd_jax.scoring.resolution import dump_maps, masks_and_maps


def slow_resize(map_, width, height):
  """Half-pixel bilinear enlargement, one output pixel after the other."""
  rows, columns = map_.shape
  result = np.zeros((height, width))
  for i in range(height):
    for j in range(width):
      y = np.clip((i + 0.5) * rows / height - 0.5, 0, rows - 1)
      x = np.clip((j + 0.5) * columns / width - 0.5, 0, columns - 1)
      top, left = int(y), int(x)
      bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
      upper = map_[top, left] * (left + 1 - x) + map_[top, right] * (x - left)
      lower = map_[bottom, left] * (left + 1 - x) + map_[bottom, right] * (x - left)
      result[i, j] = upper * (top + 1 - y) + lower * (y - top)
  return result


def test_maps_are_enlarged_bilinearly(rng):
  map_ = rng.random((8, 8))
  enlarged = resize_map(map_, 13, 21)
  assert enlarged.shape == (13, 21)
  assert enlarged.dtype == np.float32
  np.testing.assert_allclose(enlarged, slow_resize(map_, 21, 13), atol=1e-6)


@pytest.fixture
def test_split(tmp_path, make_category):
  category = make_category(tmp_path, size=40)
  # A mask of class ids with a defect of one pixel, which resizing would lose.
  ids = np.zeros((40, 40), np.uint8)
  ids[3, 5] = 2
  Image.fromarray(ids).save(category / 'ground_truth' / 'hole' / '001_mask.png')
  return load_split(folder.list_samples(tmp_path, 'bolt', 'test'), (16, 16), 2)


def test_the_resolutions(test_split, rng):
  maps = rng.random((6, 16, 16)).astype(np.float32)
  resized = list(masks_and_maps(test_split, maps, 'model'))
  np.testing.assert_array_equal([mask for mask, _ in resized], test_split.masks)
  np.testing.assert_array_equal([map_ for _, map_ in resized], maps)
  original = list(masks_and_maps(test_split, maps, 'original'))
  assert not resized[4][0].any()
  assert np.argwhere(original[4][0]).tolist() == [[3, 5]]
  for i, (mask, map_) in enumerate(original):
    assert mask.shape == map_.shape == (40, 40)
    assert mask.any() == (i >= 3)
    np.testing.assert_array_equal(map_, resize_map(maps[i], 40, 40))


def test_dumped_maps_have_the_layout_of_mvtec(test_split, tmp_path, rng):
  maps = rng.random((6, 16, 16)).astype(np.float32)
  dump_maps(tmp_path / 'maps', test_split, maps)
  files = sorted(p.relative_to(tmp_path / 'maps').as_posix() for p in tmp_path.rglob('*.tiff'))
  assert files == [f'test/{kind}/00{i}.tiff' for kind in ('good', 'hole') for i in range(3)]
  with Image.open(tmp_path / 'maps' / 'test' / 'hole' / '000.tiff') as map_:
    assert map_.mode == 'F'
    np.testing.assert_array_equal(np.asarray(map_), resize_map(maps[3], 40, 40))
