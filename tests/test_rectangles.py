"""Images that are no squares, from the config to the pictures."""

import csv

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import methods, predict
from memkd_jax.run import run_config

pytestmark = pytest.mark.newest

SIZE = (32, 64)
OPTIONS = {
  'memkd': {'train.epochs': 1, 'train.feature_noise': 'simplex', 'train.batch_size': 4},
  'knn': {},
  'patchcore': {},
  'padim': {'method.channels': 9},
  'spade': {'method.images': 3},
  'cfa': {'method.gamma_c': 2, 'train.epochs': 1, 'train.batch_size': 4},
  'students': {'method.students': 1, 'train.epochs': 1, 'train.batch_size': 4},
}


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_category):
  """A category whose images are of the shape SIZE, twice as large."""
  root = tmp_path_factory.mktemp('rectangles') / 'data'
  make_category(root, train=8, size=64)
  for path in root.rglob('*.png'):
    image = Image.open(path)
    wide = Image.new(image.mode, (128, 64))
    for left in (0, 64):
      wide.paste(image, (left, 0))
    wide.save(path)
  return root


@pytest.fixture
def make_run(data, tmp_path, make_config):
  def run_one(method, size=SIZE, **options):
    tiny = make_config(data)
    config = methods.get_config('folder', method)
    config.data, config.eval = tiny.data, tiny.eval
    for name in ('backbone', 'teacher_weights'):
      config.model[name] = tiny.model[name]
    config.update_from_flattened_dict({**OPTIONS[method], 'data.image_size': size, **options})
    results = run_config(config, tmp_path / 'run')
    assert not results['failed']
    return results

  return run_one


@pytest.mark.parametrize('method', OPTIONS)
def test_every_method_takes_them(method, make_run, tmp_path, rng):
  results = make_run(method)
  assert set(results['categories']['bolt']) >= {'I-AUC', 'P-PRO'}
  detector = memkd_jax.load(tmp_path / 'run')
  images = rng.integers(0, 256, (2, *SIZE, 3), np.uint8)
  result = detector(images)
  assert detector.image_size == SIZE
  assert result.maps.shape == (2, *SIZE)
  # What lies at one end of an image shows at that end.
  images[1] = images[0]
  images[1, :16, 48:] = 255 - images[1, :16, 48:]
  near, far = (np.abs(np.diff(detector(images).maps, axis=0))[0][x] for x in _ENDS)
  assert near.mean() > 2 * far.mean()


_ENDS = ((slice(0, 16), slice(48, 64)), (slice(16, 32), slice(0, 16)))


def test_two_equal_sides_are_one_number(make_run, tmp_path, rng):
  images = rng.integers(0, 256, (3, 50, 70, 3), np.uint8)
  results = [make_run('knn', size) for size in (32, (32, 32))]  # the second finds the first
  assert results[0]['categories'] == results[1]['categories']
  assert memkd_jax.load(tmp_path / 'run')(images).maps.shape == (3, 32, 32)


@pytest.mark.usefixtures('drawn')
def test_what_is_predicted_has_the_size_of_the_image(make_run, data, tmp_path):
  make_run('knn')
  out = tmp_path / 'out'
  image = next((data / 'bolt' / 'test' / 'good').iterdir())
  flags = [f'--workdir={tmp_path / "run"}', f'--out={out}', '--maps', str(image)]
  assert predict.main(flags) == 0
  raw = np.asarray(Image.open(out / 'maps' / f'{image.stem}.tiff'))
  assert raw.shape == (64, 128)
  with (out / 'scores.csv').open(newline='') as file:
    (row,) = csv.DictReader(file)
  peak = np.array([int(row['peak_row']), int(row['peak_col'])])
  highest = np.argwhere(raw == raw.max()).mean(axis=0)
  assert np.abs(peak - highest).max() <= 2
