"""What of an image counts, and how it lies on its canvas, from the config to the pictures."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from whole_runs import tiny_of

import memkd_jax
from memkd_jax import calibrate, methods, metrics, predict
from memkd_jax.data import folder
from memkd_jax.data.masks import decode_mask
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]

REGION = (slice(8, 24), slice(4, 20))  # of 32 x 32 pixels


@pytest.fixture(scope='module')
def make_run(tmp_path_factory, make_config):
  """Gives what runs a method on images of a folder, and the run's folder."""

  def run_one(data, method='knn', **options):
    options = {'train.holdout': 0.25} | options
    if method in ('memkd', 'students', 'ensemble'):
      options = {'train.epochs': 2, 'train.batch_size': 4} | options
    config = tiny_of(method, make_config(data), **options)
    workdir = tmp_path_factory.mktemp('roi') / 'run'
    results = run_config(config, workdir)
    assert not results['failed'], results['failed']
    return workdir, results

  return run_one


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_category):
  """Images with a bright square, of which the region holds a part or nothing."""
  root = tmp_path_factory.mktemp('roi')
  make_category(root / 'data', train=12, good=4, bad=8)
  inside = np.zeros((32, 32), np.uint8)
  inside[REGION] = 255
  Image.fromarray(inside).save(root / 'roi.png')
  # The same inside, and something else outside.
  shutil.copytree(root / 'data', root / 'other')
  rng = np.random.default_rng(3)
  for path in (root / 'other').rglob('*.png'):
    pixels = np.asarray(Image.open(path))
    if pixels.ndim == 3:
      noise = rng.integers(0, 256, pixels.shape, np.uint8)
      Image.fromarray(np.where(inside[..., None] > 0, pixels, noise)).save(path)
  return root


def with_region(root):
  return {'data.roi': str(root / 'roi.png')}


@pytest.mark.parametrize(
  'method',
  [
    *('knn', 'patchcore', 'padim', 'spade', 'cfa', 'memkd'),
    *(pytest.param(n, marks=pytest.mark.slow) for n in ('students', 'ensemble')),  # a minute
  ],
)
def test_what_is_outside_changes_nothing(method, make_run, data):
  options = with_region(data) | ({'method.channels': 9} if method == 'padim' else {})
  (one, results), (other, others) = (
    make_run(data / name, method, **options) for name in ('data', 'other')
  )
  assert results['categories'] == others['categories']
  a, b = (Workdir(workdir).read_model('bolt', 0) for workdir in (one, other))
  assert a.train_sha256 == b.train_sha256
  np.testing.assert_array_equal(a.calibration.scores, b.calibration.scores)
  paths = sorted((data / 'data' / 'bolt' / 'test').rglob('*.png'))
  twins = [data / 'other' / path.relative_to(data / 'data') for path in paths]
  expected, found = memkd_jax.load(one)(paths), memkd_jax.load(other)(twins)
  np.testing.assert_array_equal(found.maps, expected.maps)
  np.testing.assert_array_equal(found.scores, expected.scores)
  outside = np.ones((32, 32), bool)
  outside[REGION] = False
  for map_ in expected.maps:
    assert map_[outside].max() <= min(0, map_[REGION].min())


def test_scores_and_figures_are_those_of_the_inside(make_run, data):
  workdir, results = make_run(data / 'data', **with_region(data))
  detector = memkd_jax.load(workdir)
  samples = folder.list_samples(data / 'data', 'bolt', 'test')
  result = detector([sample.image for sample in samples])
  pixels = metrics.PixelScores()
  kinds = {True: 0, False: 0}
  for sample, map_ in zip(samples, result.maps, strict=True):
    mask = np.zeros((32, 32), bool) if sample.mask is None else decode_mask(sample.mask)
    pixels.add(mask[REGION], map_[REGION])
    kinds[bool(mask[REGION].any())] += 1
  assert min(kinds.values()) > 0
  figures, expected = results['categories']['bolt'], pixels.evaluate()
  # Cut out, a mask has the same regions, since the region of interest is a rectangle.
  for name, value in (
    ('P-AUC', expected.auroc),
    ('P-AP', expected.average_precision),
    ('P-PRO', expected.aupro),
    ('P-PRO5', expected.aupro_low),
  ):
    assert figures[name] == pytest.approx(value, abs=1e-12)


def test_defects_that_nobody_looks_at_are_counted(make_run, data, tmp_path):
  inside = np.zeros((32, 32), np.uint8)
  inside[20:] = 255
  Image.fromarray(inside).save(tmp_path / 'below.png')
  _, results = make_run(data / 'data', **{'data.roi': str(tmp_path / 'below.png')})
  masks = [decode_mask(path) for path in (data / 'data/bolt/ground_truth/hole').iterdir()]
  unseen = sum(not mask[20:].any() for mask in masks)
  assert 1 < unseen < len(masks)
  said = f'bolt: of {unseen} anomalous images nothing that is marked was looked at'
  assert any(note.startswith(said) for note in results['notes'])


def test_a_region_of_all_is_none(make_run, data, tmp_path):
  Image.fromarray(np.full((5, 5), 255, np.uint8)).save(tmp_path / 'all.png')
  one, whole = (
    make_run(data / 'data', 'patchcore', **given)
    for given in ({}, {'data.roi': str(tmp_path / 'all.png')})
  )
  for name, value in one[1]['categories']['bolt'].items():
    assert whole[1]['categories']['bolt'][name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize('image_score', ['max', 'top'])
def test_a_score_is_of_the_map_inside(image_score, make_run, data):
  options = with_region(data) | {'anomaly_map.image_score': image_score}
  workdir, _ = make_run(data / 'data', 'padim', **options, **{'method.channels': 9})
  result = memkd_jax.load(workdir)(sorted((data / 'data' / 'bolt' / 'test').rglob('*.png')))
  for map_, score in zip(result.maps, result.scores, strict=True):
    inside = np.sort(map_[REGION].ravel())[::-1]
    expected = inside[0] if image_score == 'max' else inside[:3].mean()  # of 256 pixels
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_the_region_travels_with_the_model(make_run, data, tmp_path):
  shutil.copy(data / 'roi.png', tmp_path / 'roi.png')
  workdir, _ = make_run(data / 'data', **{'data.roi': str(tmp_path / 'roi.png')})
  (tmp_path / 'roi.png').unlink()
  images = data / 'other' / 'bolt' / 'test' / 'hole'
  flags = [f'--workdir={workdir}', f'--out={tmp_path / "out"}', '--maps', '--regions']
  assert predict.main([*flags, '--threshold=0.2', f'--images={images}']) == 0
  maps = sorted((tmp_path / 'out' / 'maps').rglob('*.tiff'))
  assert len(maps) == 8
  outside = np.ones((32, 32), bool)
  outside[REGION] = False
  for path in maps:
    assert np.asarray(Image.open(path))[outside].max() <= 0
  with (tmp_path / 'out' / 'regions.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert rows
  for row in rows:
    assert int(row['left']) >= 4 and int(row['left']) + int(row['width']) <= 20
    assert int(row['top']) >= 8 and int(row['top']) + int(row['height']) <= 24
  with (tmp_path / 'out' / 'scores.csv').open(newline='') as file:
    assert all(8 <= int(row['peak_row']) < 24 for row in csv.DictReader(file))
  assert calibrate.main([f'--workdir={workdir}', f'--good={data / "data/bolt/train"}']) == 0
  assert memkd_jax.load(workdir).calibration.pixels[0] >= 0  # none of what was left out


def config_again(workdir):
  """The config of a run, as its command would give it again."""
  config = methods.get_config('folder', 'knn')
  known = json.loads((workdir / 'config.json').read_text())
  for section in ('data', 'eval', 'train'):
    for name, value in known[section].items():
      if name in config[section]:
        config[section][name] = tuple(value) if isinstance(value, list) else value
  for name in ('backbone', 'teacher_weights'):
    config.model[name] = known['model'][name]
  return config


@pytest.mark.parametrize('holdout', [0.0, 0.25])
def test_an_evaluation_has_the_region_of_its_model(holdout, make_run, data, tmp_path):
  roi = tmp_path / 'roi.png'
  shutil.copy(data / 'roi.png', roi)
  options = {'data.roi': str(roi), 'train.holdout': holdout}
  workdir, results = make_run(data / 'data', **options)
  config = config_again(workdir)
  # The file may be elsewhere, or gone; another one, or none, is refused.
  config.data.roi = str(roi.rename(tmp_path / 'moved.png'))
  again = run_config(config, workdir, 'evaluate')
  assert again['categories'] == results['categories']
  (tmp_path / 'moved.png').unlink()
  again = run_config(config, workdir, 'evaluate')
  assert again['categories'] == results['categories']
  Image.fromarray(np.eye(9, dtype=bool)).save(tmp_path / 'moved.png')
  with pytest.raises(
    UserError, match=r'moved.png is not the region .* remove .*moved.png: then'
  ):
    run_config(config, workdir, 'evaluate')
  for roi, problem in (
    ('', r'holds a run with the region .*moved.png, and this one would be without .*; give'),
    ('alpha', 'this one would be with that of each alpha channel; give --config.data.roi='),
    (str(tmp_path / 'misspelt.png'), 'misspelt.png is not there; name a picture'),
    (str(tmp_path), 'is a folder; name a picture'),
  ):
    config.data.roi = roi
    with pytest.raises(UserError, match=problem):
      run_config(config, workdir, 'evaluate')
  assert (
    json.loads((workdir / 'results.json').read_text())['categories'] == results['categories']
  )


def test_arrays_with_alpha_are_learned_from_with_it(data, make_config, tmp_path):
  tiny = make_config(data / 'data').model
  alpha = np.asarray(Image.open(data / 'roi.png'))
  images = [
    np.dstack([np.asarray(Image.open(path).convert('RGB')), alpha])
    for path in sorted((data / 'data' / 'bolt' / 'train' / 'good').iterdir())
  ]
  detector = memkd_jax.fit(
    images,
    tmp_path / 'run',
    method='knn',
    roi='alpha',
    image_size=32,
    backbone=tiny.backbone,
    teacher_weights=tiny.teacher_weights,
    calibration='holdout',
    holdout=0.0,
  )
  kept = sorted((tmp_path / 'run' / 'images').glob('*.png'))
  for image, path in zip(images, kept, strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  changed = [np.where(alpha[..., None] > 0, image, 255 - image) for image in images]
  for image in changed:
    image[..., 3] = alpha
  np.testing.assert_array_equal(detector(changed).scores, detector(images).scores)


def test_another_region_is_another_training(make_run, data, tmp_path):
  shutil.copy(data / 'roi.png', tmp_path / 'roi.png')
  workdir, _ = make_run(data / 'data', **{'data.roi': str(tmp_path / 'roi.png')})
  Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / 'roi.png')
  config = config_again(workdir)
  with pytest.raises(UserError, match=r'roi.png is not the region of interest that'):
    run_config(config, workdir)
  assert not run_config(config, workdir, force=True)['failed']


def test_a_region_for_each_image(make_run, data, tmp_path):
  """The alpha channel of every image, and its name in the path for a category's region."""
  root = tmp_path / 'data'
  shutil.copytree(data / 'data', root)
  alpha = Image.open(data / 'roi.png')
  for path in root.rglob('*.png'):
    if 'ground_truth' not in path.parts:
      image = Image.open(path).convert('RGB')
      image.putalpha(alpha)
      image.save(path)
  shutil.copy(data / 'roi.png', data / 'bolt.png')
  of_all = make_run(data / 'data', **{'data.roi': str(data / '{category}.png')})
  opaque = sorted(root.glob('bolt/train/good/*.png'))[:2]
  for path in opaque:  # without a channel all of it counts
    Image.open(path).convert('RGB').save(path)
  notes = make_run(root, **{'data.roi': 'alpha'})[1]['notes']
  assert any(note.startswith('2 images have no alpha channel') for note in notes)
  for path in opaque:
    image = Image.open(path)
    image.putalpha(alpha)
    image.save(path)
  of_each = make_run(root, **{'data.roi': 'alpha'})
  assert of_each[1]['categories'] == of_all[1]['categories']


def test_tiles_without_a_part_of_the_region_are_left_out(make_run, data, capsys):
  options = {'data.tiles': (2, 2), 'data.tile_overlap': 0.0, 'data.image_size': 32}
  corner = np.zeros((2, 2), np.uint8)
  corner[0, 0] = 255
  Image.fromarray(corner).resize((32, 32), 0).save(data / 'corner.png')
  workdir, _ = make_run(
    data / 'data', 'memkd', **options, **{'data.roi': str(data / 'corner.png')}
  )
  assert 'The normal images are 12 tiles' in capsys.readouterr().out
  assert Workdir(workdir).read_model('bolt', 0).train_images == 9
  maps = memkd_jax.load(workdir)(np.zeros((40, 40, 3), np.uint8)).maps
  assert maps.shape == (1, 64, 64)
  assert (maps[0, 33:] <= 0).all() and (maps[0, :, 33:] <= 0).all() and maps[0, :32, :32].any()


@pytest.mark.parametrize('resize', ['fit', 'crop'])
def test_images_of_any_shape_keep_theirs(resize, make_run, data, tmp_path, make_category):
  root = tmp_path / 'data'
  make_category(root, train=8)
  for i, path in enumerate(sorted(root.rglob('*.png'))):
    shape = (40, 100) if i % 2 else (90, 50)
    Image.open(path).resize(shape).save(path)
  workdir, results = make_run(root, **{'data.resize': resize, 'eval.resolution': 'original'})
  assert 'P-PRO' in results['categories']['bolt']
  detector = memkd_jax.load(workdir)
  image = np.random.default_rng(0).integers(0, 255, (40, 100, 3), np.uint8)
  result = detector(image)
  shown = image if resize == 'fit' else image[:, 30:70]
  by_hand = Image.fromarray(shown).resize(
    (32, 13) if resize == 'fit' else (32, 32), Image.Resampling.BILINEAR
  )
  canvas = detector.framing(Image.fromarray(image))
  rows = slice(9, 22) if resize == 'fit' else slice(None)
  np.testing.assert_array_equal(canvas[rows, :, :3], np.asarray(by_hand))
  border = np.ones(32, bool)
  border[rows] = False
  assert (result.maps[0][border] <= 0).all()
  Image.fromarray(image).save(tmp_path / 'x.png')
  flags = [f'--workdir={workdir}', f'--out={tmp_path / "out"}', '--maps']
  assert predict.main([*flags, '--threshold=0.1', str(tmp_path / 'x.png')]) == 0
  map_ = np.asarray(Image.open(next((tmp_path / 'out' / 'maps').rglob('*.tiff'))))
  assert map_.shape == (40, 100)
  if resize == 'crop':
    assert (map_[:, :30] <= 0).all() and (map_[:, 70:] <= 0).all()
    assert (map_[:, 30:70] > 0).all()


def test_a_region_that_is_not_there_is_named(make_config, data, tmp_path):
  config = make_config(data / 'data')
  config.data.roi = str(tmp_path / 'gone.png')
  with pytest.raises(UserError, match=r'--config\.data\.roi=.*gone\.png is not there'):
    run_config(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
