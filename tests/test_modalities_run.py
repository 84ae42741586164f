"""Photographs with depth and normals, from the publishers' layouts to predictions."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile
from benchmark_layouts import LAYOUTS
from fastapi.testclient import TestClient
from whole_runs import tiny_of

import memkd_jax
from memkd_jax import calibrate, export, methods, predict
from memkd_jax.configs import best
from memkd_jax.configs import folder_3d as folder_3d_config
from memkd_jax.configs import joint as joint_config
from memkd_jax.deploy.serving.app import create_app
from memkd_jax.deploy.serving.uploads import Limits
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.workdir import Workdir

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]

ALL = ('rgb', 'depth', 'normals')
CATEGORIES = {'mvtec_3d': 'bagel', 'eyecandies': 'CandyCane'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('modalities')
  for name, category in CATEGORIES.items():
    LAYOUTS[name](root / name, (category,))
  return root


@pytest.fixture
def config_of(make_config, data):
  def config_of(dataset, method='knn', inputs=ALL, **options):
    config = tiny_of(method, make_config(data / dataset))
    config.data.dataset, config.data.categories = dataset, 'all'
    config.data.inputs = inputs
    options = {'train.holdout': 0.0, 'train.calibration': 'holdout'} | options
    if method in ('memkd', 'rd'):
      options = {'train.epochs': 1, 'train.batch_size': 4} | options
    else:
      options = {'method.share': 0.5} | options
    config.update_from_flattened_dict(options)
    config.data.categories = CATEGORIES[dataset]
    return config

  return config_of


@pytest.mark.usefixtures('drawn')
@pytest.mark.parametrize(
  ('dataset', 'method'),
  [
    *(('mvtec_3d', 'knn'), ('eyecandies', 'knn')),
    # Half a minute each.
    pytest.param('mvtec_3d', 'memkd', marks=pytest.mark.slow),
    pytest.param('eyecandies', 'memkd', marks=pytest.mark.slow),
  ],
)
def test_a_run_on_a_publishers_layout(dataset, method, config_of, tmp_path):
  config = config_of(dataset, method)
  results = run_config(config, tmp_path / 'run')
  assert not results['failed'], results['failed']
  category = CATEGORIES[dataset]
  figures = results['categories'][category]
  assert 0 <= figures['P-PRO1'] <= figures['P-PRO5'] <= figures['P-PRO'] <= 1
  trained = Workdir(tmp_path / 'run').read_model(category, 0)
  assert set(trained.params) == {*ALL, 'usual'}
  low, high = trained.config.data.depth_range
  assert low < 0 < high
  folder = tmp_path / 'run' / category / 'seed_0'
  assert not list(folder.glob('inputs/*/model.*'))
  assert (folder / 'inputs' / 'depth' / 'metrics.jsonl').exists() == (method == 'memkd')
  again = run_config(config, tmp_path / 'run')
  assert again['categories'] == results['categories']


def test_one_student_sees_all_pictures(config_of, data, tmp_path):
  config = config_of('mvtec_3d', 'rd', **{'model.joint_bottleneck': True})
  results = run_config(config, tmp_path / 'run')
  assert not results['failed'], results['failed']
  trained = Workdir(tmp_path / 'run').read_model('bagel', 0)
  assert set(trained.params) == {'student', 'usual'}
  assert set(trained.params['usual']) == {'map0', 'map1', 'map2'}
  test = data / 'mvtec_3d' / 'bagel' / 'test' / 'hole'
  files = {'rgb': test / 'rgb' / '000.png', 'xyz': test / 'xyz' / '000.tiff'}
  assert memkd_jax.load(tmp_path / 'run')(files).maps.shape == (1, 32, 32)


@pytest.mark.parametrize(
  ('method', 'options', 'message'),
  [
    ('memkd', {'data.inputs': ('rgb',)}, 'is False where data.inputs names one picture'),
    ('memkd', {'model.adapt_teacher': True}, 'is False with model.adapt_teacher'),
    ('memmkd', {}, 'choose --config.model.paradigm=reverse'),
    ('ensemble', {}, 'is False, or choose a method of one student'),
  ],
)
def test_what_one_student_cannot_see(method, options, message, make_config, data):
  config = tiny_of(method, make_config(data / 'mvtec_3d'), **{'data.inputs': ALL})
  config.data.dataset = 'mvtec_3d'
  config.model.joint_bottleneck = True
  config.update_from_flattened_dict(options)
  with pytest.raises(UserError, match=message):
    methods.resolve(config)


@pytest.mark.parametrize('inputs', [('depth',), ('normals',), ('rgb', 'normals')])
def test_some_pictures_alone(inputs, config_of, tmp_path):
  config = config_of('mvtec_3d', inputs=inputs)
  results = run_config(config, tmp_path / 'run')
  assert not results['failed'], results['failed']
  params = Workdir(tmp_path / 'run').read_model('bagel', 0).params
  assert set(params) == ({*inputs, 'usual'} if len(inputs) > 1 else {'memory'})


@pytest.mark.usefixtures('drawn')
def test_held_out_units_and_thresholds(config_of, tmp_path):
  options = {'anomaly_map.normalize': 'stage', 'train.calibration': 'folds', 'train.folds': 3}
  options |= {'anomaly_map.combine': 'max', 'method.share': 1.0}
  results = run_config(config_of('mvtec_3d', **options), tmp_path / 'run')
  assert not results['failed'], results['failed']
  trained = Workdir(tmp_path / 'run').read_model('bagel', 0)
  assert set(trained.statistics) == {'stage0', 'stage1', 'stage2'}
  assert len(trained.calibration.scores) == 9


@pytest.fixture(scope='module')
def trained(tmp_path_factory, make_config, data):
  config = tiny_of('knn', make_config(data / 'mvtec_3d'))
  config.data.dataset, config.data.categories, config.data.inputs = 'mvtec_3d', 'bagel', ALL
  config.method.share = 0.5
  config.train.holdout, config.train.calibration = 0.3, 'holdout'
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  results = run_config(config, workdir)
  assert not results['failed'], results['failed']
  return workdir


def test_a_detector_takes_the_files_of_an_object(trained, data):
  detector = memkd_jax.load(trained)
  good = data / 'mvtec_3d' / 'bagel' / 'test' / 'good'
  objects = [
    {'rgb': good / 'rgb' / f'{i:03}.png', 'xyz': good / 'xyz' / f'{i:03}.tiff'}
    for i in range(2)
  ]
  found = detector(objects)
  assert found.scores.shape == (2,)
  np.testing.assert_allclose(detector(objects[1]).scores, found.scores[1:], rtol=1e-5)
  with pytest.raises(UserError, match='looks at rgb, depth, normals'):
    detector(good / 'rgb' / '000.png')
  with pytest.raises(UserError, match='has neither a point cloud'):
    detector({'rgb': objects[0]['rgb']})
  with pytest.raises(UserError, match=r"An object is \{'xyz'\}"):
    detector({'xyz': objects[0]['xyz']})
  with pytest.raises(UserError, match='give the paths of its files'):
    detector({'rgb': np.zeros((32, 32, 3), np.uint8), 'xyz': objects[0]['xyz']})


def rows(out):
  with (out / 'scores.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_predictions_are_of_objects(trained, data, tmp_path, capsys):
  bagel = data / 'mvtec_3d' / 'bagel'
  flags = [f'--workdir={trained}', f'--images={bagel / "test"}', f'--out={tmp_path / "out"}']
  assert predict.main([*flags, '--maps']) == 0
  found = rows(tmp_path / 'out')
  assert len(found) == 7 and all('/rgb/' in row['path'] for row in found)
  assert '14 files beside photographs of objects' in capsys.readouterr().err
  result = json.loads((trained / 'bagel' / 'seed_0' / 'result.json').read_text())
  assert result['counts']['test_normal'] == 3
  with (trained / 'bagel' / 'seed_0' / 'scores.csv').open(newline='') as file:
    evaluated = {row['image']: float(row['score']) for row in csv.DictReader(file)}
  for row in found:
    name = '/'.join(row['path'].split('/')[-4:]).replace('/rgb', '')
    assert float(row['score']) == pytest.approx(evaluated[name], rel=1e-4)


def test_an_object_without_its_cloud_is_a_row_with_an_error(trained, data, tmp_path):
  objects = tmp_path / 'objects'
  shutil.copytree(data / 'mvtec_3d' / 'bagel' / 'test' / 'hole', objects)
  (objects / 'xyz' / '001.tiff').unlink()
  flags = [f'--workdir={trained}', f'--images={objects}', f'--out={tmp_path / "out"}']
  assert predict.main(flags) == 1
  broken = [row for row in rows(tmp_path / 'out') if row['error']]
  assert len(broken) == 1
  assert f'There is no {objects / "xyz" / "001.tiff"}' in broken[0]['error']


def test_pictures_alone_are_refused(trained, tmp_path, make_category, capsys):
  make_category(tmp_path / 'flat')
  flags = [f'--workdir={trained}', f'--images={tmp_path / "flat"}', f'--out={tmp_path / "out"}']
  assert predict.main(flags) == 1
  assert 'give a folder with rgb/NAME.png and xyz/NAME.tiff' in capsys.readouterr().err


def test_a_threshold_from_further_objects(trained, data, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(trained, copy)
  good = data / 'mvtec_3d' / 'bagel' / 'train'
  assert calibrate.main([f'--workdir={copy}', f'--good={good}']) == 0
  assert len(Workdir(copy).read_model('bagel', 0).calibration.scores) == 9


def test_a_server_takes_a_file_of_each_kind(trained, data):
  detector = memkd_jax.load(trained)
  app = create_app({'bagel': detector}, Limits(bytes=10**6, images=3))
  good = data / 'mvtec_3d' / 'bagel' / 'test' / 'good'
  images = [('images', (good / 'rgb' / f'{i:03}.png').read_bytes()) for i in range(2)]
  clouds = [('xyz', (good / 'xyz' / f'{i:03}.tiff').read_bytes()) for i in range(2)]
  with TestClient(app, base_url='http://127.0.0.1:8000') as client:
    while not app.state.service.batcher.ready:
      assert app.state.service.batcher.failure is None
    response = client.post('/api/score?overlay=true', files=images + clouds)
    assert response.status_code == 200, response.text
    expected = detector(
      [
        {'rgb': good / 'rgb' / f'{i:03}.png', 'xyz': good / 'xyz' / f'{i:03}.tiff'}
        for i in range(2)
      ]
    )
    found = [image['score'] for image in response.json()['images']]
    np.testing.assert_allclose(found, expected.scores, rtol=1e-4)
    one = client.post('/api/score', files=images + clouds[:1])
    assert one.status_code == 400
    assert "2 files as 'images' and 1 as 'xyz'" in one.json()['detail']
    alone = client.post('/api/score', files=images)
    assert alone.status_code == 422
    assert 'has neither a point cloud' in alone.json()['detail']
    broken = client.post('/api/score', files=[*images[:1], ('xyz', b'no cloud')])
    assert broken.status_code == 422
    assert 'is not a readable point cloud' in broken.json()['detail']
    model = client.get('/api/models').json()['models'][0]
    assert model['framing']['inputs'] == list(ALL)


def test_an_exported_file_knows_the_pictures(trained, data, tmp_path):
  pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'")
  file = tmp_path / 'bagel.onnx'
  assert export.main([f'--workdir={trained}', f'--out={file}']) == 0
  images = data / 'mvtec_3d' / 'bagel' / 'test' / 'hole'
  scores = []
  for which in (f'--workdir={trained}', f'--model={file}'):
    out = tmp_path / f'out{len(scores)}'
    assert predict.main([which, f'--images={images}', f'--out={out}']) == 0
    scores.append([float(row['score']) for row in rows(out)])
  assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'data.inputs': ()}, 'holds some of rgb, depth, normals'),
    ({'data.inputs': ('rgb', 'xyz')}, 'holds only rgb, depth and normals'),
    ({'data.depth_range': (1.0, 0.5)}, 'two numbers, the lower one first'),
    ({'data.depth_range': 'far'}, 'is auto, or two numbers'),
    ({'data.source': 'tfds'}, 'is rgb for what memkd prepare-tfds made'),
    ({'data.roi': 'alpha'}, 'is rgb where alpha says what counts'),
    ({'anomaly_map.combine': 'product'}, 'is sum or max'),
  ],
)
def test_what_cannot_be_is_said(options, message, config_of):
  config = config_of('mvtec_3d')
  with config.unlocked(), config.data.ignore_type():
    for name, value in options.items():
      section, field = name.split('.')
      with config[section].ignore_type():
        config[section][field] = value
  with pytest.raises(UserError) as error:
    methods.resolve(config)
  assert message in str(error.value)


def test_a_joint_model_sees_depth_in_one_way(make_config, tmp_path):
  LAYOUTS['mvtec_3d'](tmp_path / 'data', ('bagel', 'tire'))
  for path in (tmp_path / 'data' / 'tire').rglob('*.tiff'):
    points = tifffile.imread(path)
    tifffile.imwrite(path, 2 * points, photometric='rgb')  # and so twice as high
  config = tiny_of('knn', make_config(tmp_path / 'data'))
  config.data.dataset, config.data.categories, config.data.inputs = (
    'mvtec_3d',
    'bagel,tire',
    ALL,
  )
  config.train.scope, config.train.holdout, config.method.share = 'joint', 0.3, 0.5
  config.train.calibration = 'holdout'
  for force in (False, True):
    results = run_config(config, tmp_path / 'run', force=force)
    assert not results['failed'], results['failed']
    models = [Workdir(tmp_path / 'run').read_model(c, 0) for c in ('bagel', 'tire')]
    (low, high), other = (model.config.data.depth_range for model in models)
    assert (low, high) == other and high > 0.03
    assert memkd_jax.load(tmp_path / 'run').category == 'any'


def test_models_of_places_leave_nothing_behind(config_of, tmp_path):
  options = {'data.tiles': (2, 2), 'data.tile_models': 'position', 'data.tile_overlap': 0.0}
  config = config_of('mvtec_3d', inputs=('rgb', 'depth'), **options)
  results = run_config(config, tmp_path / 'run')
  assert not results['failed'], results['failed']
  kept = sorted(path.parent.name for path in (tmp_path / 'run').rglob('model.safetensors'))
  assert kept == ['seed_0']


def test_what_is_ones_own_is_trained_so(make_config):
  for config in (
    best.get_config('folder_3d'),
    joint_config.get_config('folder_3d,patchcore'),
    folder_3d_config.get_config(),
  ):
    assert config.data.inputs == ('rgb', 'normals')
    assert (config.train.holdout, config.model.backbone) == (0.1, 'auto')


def test_a_list_as_the_command_line_gives_it(config_of):
  config = methods.resolve(config_of('mvtec_3d', inputs=('normals, rgb',)))
  assert config.data.inputs == ('rgb', 'normals')


def test_ones_own_objects(make_config, data, tmp_path):
  shutil.copytree(data / 'mvtec_3d' / 'bagel', tmp_path / 'data' / 'washer')
  (tmp_path / 'data' / 'notes').mkdir()
  config = tiny_of('knn', make_config(tmp_path / 'data'))
  config.data.inputs = folder_3d_config.get_config('knn').data.inputs
  config.data.dataset, config.data.categories = 'folder_3d', 'all'
  results = run_config(config, tmp_path / 'run')
  assert list(results['categories']) == ['washer'] and not results['failed']
  config.data.dir = str(tmp_path / 'data' / 'washer')
  with pytest.raises(UserError, match=r'is one itself: pass --config\.data\.dir='):
    run_config(config, tmp_path / 'other')


def test_a_data_set_of_photographs_has_nothing_else(make_config, tmp_path, make_category):
  make_category(tmp_path / 'data')
  config = tiny_of('knn', make_config(tmp_path / 'data'), **{'data.inputs': ALL})
  with pytest.raises(UserError, match='folder has photographs alone'):
    run_config(config, tmp_path / 'run')
