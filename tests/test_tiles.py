"""Images that are cut into tiles, from the config to the pictures."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from whole_runs import tiny_of

import memkd_jax
from memkd_jax import calibrate, methods, predict, sweep
from memkd_jax.data.framing import Framing
from memkd_jax.data.images import read_image
from memkd_jax.data.tiling import Tiling
from memkd_jax.errors import UserError
from memkd_jax.methods.knn import NearestNeighbours
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]

GRID = {'data.tiles': (2, 3), 'data.tile_overlap': 0.25}  # canvases of 56 x 80
PIXELS = {'data.tile_size': 32}


@pytest.fixture(scope='module')
def make_run(tmp_path_factory, make_config):
  """Gives what runs a method on images of a size, and the run's folder."""

  def config_of(data, method='knn', **options):
    options = {'train.holdout': 0.25} | options
    if method == 'memkd':
      few = {'train.epochs': 1, 'train.batch_size': 8, 'model.memory_items': 5}
      options = few | options
    return tiny_of(method, make_config(data), **options)

  def run_one(*given, **options):
    workdir = tmp_path_factory.mktemp('tiles') / 'run'
    results = run_config(config_of(*given, **options), workdir)
    assert not results['failed'], results['failed']
    return workdir, results

  run_one.config = config_of
  return run_one


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_category):
  root = tmp_path_factory.mktemp('tiles') / 'data'
  make_category(root, train=8, size=64)
  return root


@pytest.fixture(scope='module')
def gridded(make_run, data):
  return make_run(data, **GRID)


@pytest.mark.parametrize('method', ['knn', 'memkd'])
def test_maps_are_canvases_and_scores_those_of_tiles(method, make_run, gridded, data, rng):
  workdir, results = gridded if method == 'knn' else make_run(data, method, **GRID)
  assert set(results['categories']['bolt']) >= {'I-AUC', 'P-PRO'}
  detector = memkd_jax.load(workdir)
  images = rng.integers(0, 256, (2, 70, 50, 3), np.uint8)
  result = detector(images)
  assert result.maps.shape == (2, 56, 80)
  tiling = detector.tiling
  assert tiling == Tiling((32, 32), (2, 3), None, 0.25)
  # Each tile as an image of a detector that cuts nothing.
  detector.tiling, detector.framing = Tiling((32, 32)), Framing((32, 32))
  for image, score in zip(images, result.scores, strict=True):
    canvas = np.asarray(Image.fromarray(image).resize((80, 56), Image.Resampling.BILINEAR))
    alone = detector(list(tiling.cut(canvas)))
    assert len(alone.scores) == 6
    np.testing.assert_allclose(score, alone.scores.max(), rtol=1e-5)
  assert Workdir(workdir).read_model('bolt', 0).train_images == 6


@pytest.mark.parametrize('method', ['patchcore', 'memkd'])
def test_a_place_of_the_grid_may_have_its_own_model(method, make_run, data, tmp_path, rng):
  options = GRID | {'data.tile_models': 'position'}
  if method == 'memkd':
    options['train.batch_size'] = 4
  workdir, results = make_run(data, method, **options)
  assert set(results['categories']['bolt']) >= {'I-AUC', 'P-PRO'}
  detector = memkd_jax.load(workdir)
  trained = Workdir(workdir).read_model('bolt', 0)
  assert sorted(trained.params) == [f'tile_{k}' for k in range(6)]
  assert trained.train_images == 6
  left = {path.name for path in (workdir / 'bolt' / 'seed_0' / 'tiles').rglob('*.*')}
  assert left == ({'metrics.jsonl', 'parameters.txt'} if method == 'memkd' else set())
  image = rng.integers(0, 256, (70, 50, 3), np.uint8)
  result = detector([image, image[::-1]])
  # Each place as a detector of its own, of the tiles that lie there.
  canvas = np.asarray(Image.fromarray(image).resize((80, 56), Image.Resampling.BILINEAR))
  scores = []
  for index, tile in enumerate(detector.tiling.cut(canvas)):
    alone = memkd_jax.load(workdir)
    alone._on_device = trained.params[f'tile_{index}']
    alone.tiling, alone.framing = Tiling((32, 32)), Framing((32, 32))
    scores.append(float(alone(tile).scores[0]))
  np.testing.assert_allclose(result.scores[0], max(scores), rtol=1e-5)
  assert np.ptp(scores) > 0
  with pytest.raises(UserError, match='has a model for each place of the grid'):
    detector.score(canvas[None])
  path = data / 'bolt' / 'train' / 'good' / '000.png'
  flags = [f'--workdir={workdir}', f'--out={tmp_path}', '--threshold=1']
  assert predict.main([*flags, str(path)]) == 0


def test_a_model_of_a_place_has_seen_no_other(make_run, data, tmp_path):
  """Whatever lies at the other places, bit for bit."""
  changed = tmp_path / 'data'
  shutil.copytree(data, changed)
  for path in changed.rglob('*.png'):
    pixels = np.asarray(Image.open(path)).copy()
    if pixels.ndim == 3:
      pixels[40:] = 255 - pixels[40:]
      Image.fromarray(pixels).save(path)
  options = {'data.tiles': (2, 2), 'data.tile_overlap': 0.0, 'data.tile_models': 'position'}
  options['train.batch_size'] = 4
  a, b = (
    Workdir(make_run(folder, 'memkd', **options)[0]).read_model('bolt', 0).params
    for folder in (data, changed)
  )
  for index in range(4):
    same = [
      np.array_equal(x, y)
      for x, y in zip(*(jax.tree.leaves(m[f'tile_{index}']) for m in (a, b)), strict=True)
    ]
    assert all(same) == (index < 2)


def test_finished_places_are_not_fitted_again(make_run, data, monkeypatch, tmp_path):
  fit, names = NearestNeighbours.fit, []

  def stopped(self, task, *given):
    names.append(task.name)
    if len(names) == 4:
      raise interrupt.Interrupted('SIGINT')
    return fit(self, task, *given)

  monkeypatch.setattr(NearestNeighbours, 'fit', stopped)
  options = GRID | {
    'data.tile_models': 'position',
    'train.calibration': 'folds',
    'train.folds': 2,
  }
  config = make_run.config(data, 'knn', **options)
  with pytest.raises(interrupt.Interrupted):
    run_config(config, tmp_path / 'run')
  run_config(config, tmp_path / 'run')
  tiles = [f'tile {k} of 6' for k in range(1, 7)]
  assert names[:4] == [f'bolt, fold 1 of 2, {name}' for name in tiles[:4]]
  assert names[4:7] == [f'bolt, fold 1 of 2, {name}' for name in tiles[3:]]
  assert names[-6:] == [f'bolt, {name}' for name in tiles]
  assert len(memkd_jax.load(tmp_path / 'run').calibration.scores) == 8


def test_one_tile_is_none_to_the_bit(make_run, data):
  one, without = (make_run(data, **given) for given in ({'data.tiles': (1, 1)}, {}))
  assert one[1]['categories'] == without[1]['categories']
  a, b = (Workdir(workdir).read_model('bolt', 0) for workdir, _ in (one, without))
  np.testing.assert_array_equal(a.params['memory'], b.params['memory'])
  np.testing.assert_array_equal(a.calibration.scores, b.calibration.scores)


@pytest.mark.usefixtures('drawn')
@pytest.mark.parametrize('resolution', ['model', 'original'])
def test_images_of_several_sizes(make_run, data, tmp_path, resolution):
  shutil.copytree(data, tmp_path / 'data')
  for kind in ('test/good/000.png', 'train/good/000.png'):
    path = tmp_path / 'data' / 'bolt' / kind
    Image.open(path).resize((100, 40)).save(path)
  options = {**PIXELS, 'eval.resolution': resolution, 'anomaly_map.image_score': 'top'}
  workdir, results = make_run(tmp_path / 'data', **options)
  assert set(results['categories']['bolt']) >= {'I-AUC', 'P-PRO'}
  folder = workdir / 'bolt' / 'seed_0'
  assert (folder / 'figure.png').exists() and (folder / 'cases' / 'map.png').exists()
  maps = memkd_jax.load(workdir)(list((tmp_path / 'data').glob('bolt/test/good/*.png'))).maps
  assert sorted(map_.shape for map_ in maps) == [(40, 100), (64, 64), (64, 64)]


def test_thresholds_by_folds(make_run, data):
  options = {**PIXELS, 'train.holdout': 0.0, 'train.calibration': 'folds'}
  workdir, _ = make_run(data, **options)
  assert len(memkd_jax.load(workdir).calibration.scores) == 8


def test_what_is_predicted_has_the_size_of_the_image(gridded, data, tmp_path):
  workdir, _ = gridded
  images = sorted((data / 'bolt' / 'test').rglob('*.png'))
  flags = [f'--workdir={workdir}', f'--out={tmp_path}', '--maps', *map(str, images)]
  assert predict.main(flags) == 0
  with (tmp_path / 'scores.csv').open(newline='') as file:
    scores = [float(row['score']) for row in csv.DictReader(file)]
  np.testing.assert_allclose(scores, memkd_jax.load(workdir)(images).scores, rtol=1e-4)
  names = sorted((tmp_path / 'maps').rglob('*.tiff'))
  assert len(names) == len(images)
  assert {Image.open(name).size for name in names} == {(64, 64)}


def test_a_threshold_is_set_from_other_images(gridded, data, tmp_path):
  shutil.copytree(gridded[0], tmp_path / 'run')
  good = data / 'bolt' / 'train' / 'good'
  assert calibrate.main([f'--workdir={tmp_path / "run"}', f'--good={good}']) == 0
  detector = memkd_jax.load(tmp_path / 'run')
  expected = np.sort(memkd_jax.load(gridded[0])(list(good.iterdir())).scores)
  np.testing.assert_allclose(detector.calibration.scores, expected, rtol=1e-5)


def test_the_memories_of_tiles(make_run, data):
  workdir, _ = make_run(data, 'memkd', **PIXELS)
  found = json.loads((workdir / 'bolt' / 'seed_0' / 'memory.json').read_text())
  assert set(found['m1']['cosine']) == {'normal', 'anomalous'}


@pytest.mark.parametrize(
  ('options', 'problem'),
  [
    (
      {'data.tiles': (2,)},
      r'data.tiles=\(2,\): give a value that is two numbers',
    ),
    ({'data.tiles': (0, 2)}, 'data.tiles=.*is two numbers'),
    ({'data.tile_size': -1}, 'data.tile_size=-1: give a value that is a number of pixels'),
    ({'data.tile_size': (64, 0)}, 'data.tile_size=.*is a number of pixels'),
    ({'data.tile_models': 'position'}, 'data.tile_models=position: images are not cut; give'),
    (
      {'data.tile_size': 64, 'data.tile_models': 'position'},
      'data.tile_models=position: with data.tile_size larger images have more tiles',
    ),
    (
      {'data.tiles': (2, 2), 'data.tile_models': 'position', 'data.resize': 'fit'},
      'data.tile_models=position: with data.resize=fit a place shows now this part',
    ),
    (
      {'data.tiles': (2, 2), 'data.tile_models': 'position', 'data.roi': 'alpha'},
      'data.tile_models=position: with data.roi=alpha a place may show nothing',
    ),
    ({'data.tile_overlap': 0.6}, r'data.tile_overlap=0.6: .* lies in \[0, 0.5\]'),
    (
      {'data.tiles': (2, 2), 'data.tile_size': 64},
      'data.tile_size=64.*leave data.tiles out',
    ),
    (
      {'data.tiles': (2, 2), 'train.stop': 'plateau', 'train.holdout': 0.1},
      'train.stop=plateau: give a value that is epochs where images are cut into tiles',
    ),
    (
      {'data.tiles': (2, 2), 'anomaly_map.normalize': 'stage'},
      'anomaly_map.normalize=stage: give a value that is none where images are cut into tiles',
    ),
  ],
)
def test_what_cannot_be_cut_is_named(options, problem):
  config = methods.get_config()
  config.update_from_flattened_dict(options)
  with pytest.raises(UserError, match=f'--config.{problem}'):
    methods.resolve(config)


@pytest.mark.parametrize(
  ('given', 'resolved'),
  [
    ({'tile_size': (64, 64)}, {'tile_size': 64}),
    ({'tile_size': (64,)}, {'tile_size': 64}),
    ({'tiles': (1, 1)}, {'tiles': ()}),
  ],
)
def test_equal_tiles_are_one_value(given, resolved):
  config = methods.get_config()
  config.data.update(given)
  data = methods.resolve(config).data
  assert {name: data[name] for name in given} == resolved


def test_a_canvas_has_a_bound(tmp_path):
  Image.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / 'x.png')
  with pytest.raises(UserError, match='of 400x300 pixels would become one of 25600x19200'):
    read_image(tmp_path / 'x.png', Framing(Tiling((64, 64), pixels=(1, 1)).canvas))


def test_a_sweep_over_sizes(data, tmp_path):
  config = methods.get_config('folder')
  config.sweep.variants = (
    ('small', (('data.image_size', 64),)),
    ('wide', (('data.image_size', (64, 96)), ('data.tile_size', (32, 48)))),
  )
  found = {name: methods.resolve(c).data for name, c in sweep.variants(config).items()}
  assert found['small'].image_size == 64
  assert (found['wide'].image_size, found['wide'].tile_size) == ((64, 96), (32, 48))


@pytest.mark.parametrize('size', ['64', True, [32, 0], [1.0, 2], [32, 32, 32], None])
def test_sizes_in_a_file_are_checked(size):
  with pytest.raises(ValueError, match=r'number'):
    Tiling.of_json(size, None)


def test_the_report_says_so(gridded):
  page = (gridded[0] / 'report.html').read_text()
  assert '2 x 3 tiles of 32 x 32 pixels' in page
