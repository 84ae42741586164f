"""Files of depth, and what is said of those that are none."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from memkd_jax.data.depth_files import read_cloud, read_depth
from memkd_jax.errors import UserError


@pytest.fixture
def points(rng):
  return rng.random((6, 5, 3), np.float32)


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_a_cloud_comes_back(tmp_path, points, compression, dtype):
  path = tmp_path / 'x.tiff'
  tifffile.imwrite(path, points.astype(dtype), photometric='rgb', compression=compression)
  found = read_cloud(path)
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, points)


def test_what_is_no_cloud(tmp_path, points):
  def message(name):
    with pytest.raises(UserError, match='not a readable point cloud') as error:
      read_cloud(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert '--config.data.inputs=rgb' in str(error.value)
    return str(error.value)

  assert 'No such file' in message('gone.tiff')
  (tmp_path / 'text.tiff').write_text('x, y, z')
  message('text.tiff')
  tifffile.imwrite(tmp_path / 'grey.tiff', points[..., 0])
  assert 'float32 [6, 5] in place of float32 [H, W, 3]' in message('grey.tiff')
  whole = (255 * points).astype(np.uint8)
  tifffile.imwrite(tmp_path / 'whole.tiff', whole, photometric='rgb')
  assert 'uint8 [6, 5, 3]' in message('whole.tiff')
  tifffile.imwrite(tmp_path / 'two.tiff', np.stack([points] * 2), photometric='rgb')
  assert '2 pages' in message('two.tiff')
  tifffile.imwrite(tmp_path / 'cut.tiff', points, photometric='rgb')
  content = (tmp_path / 'cut.tiff').read_bytes()
  (tmp_path / 'cut.tiff').write_bytes(content[: len(content) // 2])
  message('cut.tiff')


def test_a_cloud_that_would_be_too_large_is_not_read(tmp_path, points, monkeypatch):
  tifffile.imwrite(tmp_path / 'x.tiff', points, photometric='rgb')
  monkeypatch.setattr('memkd_jax.data.depth_files.MAX_PIXELS', 29)
  with pytest.raises(UserError, match='more than 29 pixels'):
    read_cloud(tmp_path / 'x.tiff')
  monkeypatch.setattr('memkd_jax.data.depth_files.MAX_BYTES', 100)
  with pytest.raises(UserError, match='more than 100 bytes'):
    read_cloud(tmp_path / 'x.tiff')


def depth(folder, values, info='normalization: {min: 0.5, max: 2.5}\n'):
  Image.fromarray(values).save(folder / 'd.png')
  (folder / 'd.yaml').write_text(info)
  return read_depth(folder / 'd.png', folder / 'd.yaml')


def test_depth_in_the_units_of_its_range(tmp_path):
  values = np.array([[0, 65535, 13107], [32768, 1, 65534]], np.uint16)
  found = depth(tmp_path, values)
  np.testing.assert_allclose(found[..., 2], 0.5 + values / 65535 * 2)
  steps = np.diff(found[..., 0], axis=1)
  assert (steps > 0).all() and np.ptp(steps) < 1e-12
  np.testing.assert_allclose(found[1, :, 1] - found[0, :, 1], steps[0, 0])


@pytest.mark.parametrize(
  ('info', 'reason'),
  [
    ('{}', 'it has no normalization'),
    ('normalization: {min: 0.1}', 'it has no max'),
    ('normalization: {min: 2, max: 1}', 'are no depths'),
    ('normalization: {min: .nan, max: 1}', 'are no depths'),
    ('normalization: {min: a, max: 1}', 'could not convert'),
    ('normalization: [1]', 'd.yaml is not a readable range'),
    ('a: b: c', 'd.yaml is not a readable range'),
  ],
)
def test_a_range_that_is_none(tmp_path, info, reason):
  with pytest.raises(UserError, match='not a readable range of depths') as error:
    depth(tmp_path, np.zeros((2, 2), np.uint16), info)
  assert reason in str(error.value)


def test_a_picture_that_is_no_depth(tmp_path):
  with pytest.raises(UserError, match='in place of grey of 16 bits'):
    depth(tmp_path, np.zeros((2, 2, 3), np.uint8))
  (tmp_path / 'd.png').write_text('none')
  with pytest.raises(UserError, match='not a readable picture of depth'):
    read_depth(tmp_path / 'd.png', tmp_path / 'd.yaml')
