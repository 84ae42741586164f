"""Foreign maps are scored as ours are, at original size, without jax."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memkd_jax import metrics
from memkd_jax.data import folder
from memkd_jax.data.masks import decode_mask
from memkd_jax.errors import UserError
from memkd_jax.scoring import external_maps

TOOL = Path(__file__).parents[2] / 'tools' / 'score_maps.py'


@pytest.fixture
def data(tmp_path, make_category, rng):
  """A data set, and float32 maps of it: half TIFF, half .npy."""
  make_category(tmp_path / 'data', 'bolt', size=40)
  for i, sample in enumerate(folder.list_samples(tmp_path / 'data', 'bolt', 'test')):
    mask = decode_mask(sample.mask) if sample.mask else np.zeros((40, 40), bool)
    map_ = (rng.normal(size=mask.shape) + mask).astype(np.float32)
    path = tmp_path / 'maps' / 'bolt' / 'test' / sample.defect / sample.image.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    if i % 2:
      np.save(path.with_suffix('.npy'), map_)
    else:
      Image.fromarray(map_).save(path.with_suffix('.tiff'))
  return tmp_path


def run(*arguments):
  return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)


def test_the_figures_are_those_of_the_maps(data):
  result = external_maps.score_category(data / 'maps', data / 'data', 'bolt')
  samples = folder.list_samples(data / 'data', 'bolt', 'test')
  maps = np.stack(
    [
      external_maps.read_map(external_maps._find_map(data / 'maps' / 'bolt', s))
      for s in samples
    ]
  )
  masks = np.stack([decode_mask(s.mask) if s.mask else np.zeros((40, 40)) for s in samples])
  labels = [s.label for s in samples]
  assert maps.dtype == np.float32
  assert result['metrics']['P-PRO'] == metrics.aupro(masks, maps)
  assert result['metrics']['P-AP'] == metrics.average_precision(masks, maps)
  assert result['metrics']['I-AUC'] == metrics.auroc(labels, maps.max((1, 2)))
  assert result['aupro']['0.05'] == metrics.aupro(masks, maps, 0.05)
  assert result['aupimo'] == metrics.aupimo(masks, maps)[0]
  assert result['counts'] == {'test_normal': 3, 'test_anomalous': 3}
  assert list(result['per_defect']) == ['hole']
  assert result['per_defect']['hole']['P-AUC'] == result['metrics']['P-AUC']


def test_the_tool_prints_a_table_and_writes_json(data):
  result = run(f'--maps={data}/maps', f'--data={data}/data', f'--out={data}/figures.json')
  assert result.returncode == 0, result.stderr
  assert '| bolt' in result.stdout
  written = json.loads((data / 'figures.json').read_text())
  assert written['categories']['bolt']['P-PRO'] <= 1
  assert written['aupro']['bolt'].keys() == {'0.3', '0.05', '0.01'}
  low, high = written['i_auc_interval']['bolt']
  assert low <= written['categories']['bolt']['I-AUC'] <= high


def test_the_tool_goes_on_after_a_bad_category(data, make_category):
  make_category(data / 'data', 'nut')
  (data / 'maps' / 'nut' / 'test').mkdir(parents=True)
  result = run(f'--maps={data}/maps', f'--data={data}/data')
  assert result.returncode == 1
  assert '| bolt' in result.stdout
  assert 'nut failed: ' in result.stdout
  assert '000.png has no map' in result.stdout
  assert 'Traceback' not in result.stderr
  empty = run(f'--maps={data}/none', f'--data={data}/data')
  assert empty.returncode == 1
  assert empty.stderr.startswith('score-maps: there are no maps in')


class Attack:
  def __reduce__(self):
    return (print, ('owned',))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (np.zeros((40, 41), np.float32), r'is 41x40 pixels but .*000_mask\.png is 40x40'),
    (np.zeros((40, 40, 3)), r'is float64 \(40, 40, 3\), not real numbers'),
    (np.full((40, 40), np.nan), 'holds NaN or infinite'),
    (np.array([Attack()], object), 'is not a readable map'),
    (None, 'has no map'),
  ],
)
def test_bad_maps_are_named(data, content, message):
  stem = data / 'maps' / 'bolt' / 'test' / 'hole' / '000'
  for suffix in ('.npy', '.tiff'):
    stem.with_suffix(suffix).unlink(missing_ok=True)
  if content is not None:
    np.save(stem.with_suffix('.npy'), content, allow_pickle=True)
  with pytest.raises(UserError, match=message):
    external_maps.score_category(data / 'maps', data / 'data', 'bolt')


def test_without_masks_there_is_nothing_to_score(tmp_path, make_category):
  make_category(tmp_path / 'data', masks=False)
  with pytest.raises(UserError, match='no masks of bolt in'):
    external_maps.score_category(tmp_path / 'maps', tmp_path / 'data', 'bolt')


def test_scoring_needs_no_jax():
  code = 'import sys; import memkd_jax.scoring.external_maps; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)


def good_map(data, number):
  stem = data / 'maps' / 'bolt' / 'test' / 'good' / f'00{number}'
  for suffix in ('.npy', '.tiff'):
    stem.with_suffix(suffix).unlink(missing_ok=True)
  return stem.with_suffix('.npy')


def test_the_size_of_the_maps_of_good_images_is_checked(data):
  np.save(good_map(data, 1), np.zeros((12, 12), np.float32))
  with pytest.raises(UserError, match=r'001\.npy is 12x12 pixels but .*001\.png is 40x40'):
    external_maps.score_category(data / 'maps', data / 'data', 'bolt')


def test_the_size_of_an_image_is_that_of_the_upright_one(data):
  exif = Image.Exif()
  exif[0x0112] = 6
  image = data / 'data' / 'bolt' / 'test' / 'good' / '001.png'
  Image.new('RGB', (20, 30)).save(image, exif=exif)
  np.save(good_map(data, 1), np.zeros((20, 30), np.float32))
  external_maps.score_category(data / 'maps', data / 'data', 'bolt')
  np.save(good_map(data, 1), np.zeros((30, 20), np.float32))
  with pytest.raises(UserError, match=r'is 20x30 pixels but .*001\.png is 30x20'):
    external_maps.score_category(data / 'maps', data / 'data', 'bolt')


def test_without_readable_images_all_maps_must_agree_on_one_size(data):
  (data / 'data' / 'bolt' / 'test' / 'good' / '001.png').write_bytes(b'')
  external_maps.score_category(data / 'maps', data / 'data', 'bolt')
  np.save(good_map(data, 1), np.zeros((12, 12), np.float32))
  with pytest.raises(UserError, match=r'001\.npy belongs to an image that cannot be read'):
    external_maps.score_category(data / 'maps', data / 'data', 'bolt')


def test_soft_masks_are_noted(data):
  for mask in (data / 'data' / 'bolt' / 'ground_truth' / 'hole').glob('*.png'):
    Image.open(mask).save(mask.with_suffix('.jpg'), quality=75)
    mask.unlink()
  result = external_maps.score_category(data / 'maps', data / 'data', 'bolt')
  assert result['notes'] == [
    '3 masks hold more than two values; they were thresholded at half of their range.'
  ]
