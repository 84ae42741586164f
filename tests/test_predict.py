import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import predict
from memkd_jax.deploy.prediction import Outputs, list_inputs
from memkd_jax.deploy.prediction import predict as predict_paths
from memkd_jax.run import run_config
from memkd_jax.runtime import interrupt
from memkd_jax.workdir import Workdir


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_config, make_category):
  root = tmp_path_factory.mktemp('predict')
  make_category(root / 'data', train=12, size=48)
  config = make_config(root / 'data')
  config.train.epochs = 2
  config.train.holdout = 0.25
  run_config(config, root / 'run')
  return root


@pytest.fixture
def folder(run, tmp_path):
  """Images in folders, one of them broken, one no square, one hidden."""
  folder = tmp_path / 'new'
  shutil.copytree(run / 'data' / 'bolt' / 'test', folder)
  Image.fromarray(np.full((20, 60), 7, np.uint8)).save(folder / 'wide.bmp')
  (folder / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  (folder / '.hidden.png').write_bytes(b'')
  (folder / 'notes.txt').write_text('no image')
  return folder


def rows(out):
  with (out / 'scores.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_folder(run, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  arguments = [f'--workdir={run / "run"}', f'--images={folder}', f'--out={out}']
  assert predict.main([*arguments, '--maps', '--masks', '--json']) == 1
  printed = capsys.readouterr()
  assert '1 of 8 images could not be read' in printed.err
  found = rows(out)
  assert list(found[0]) == [
    *('path', 'score', 'p_value', 'decision', 'peak_row', 'peak_col', 'error')
  ]
  lines = [json.loads(line) for line in printed.out.splitlines()]
  assert [line['path'] for line in lines] == [row['path'] for row in found]
  broken = [row for row in found if row['error']]
  assert [row['path'] for row in broken] == [str(folder / 'broken.png')]
  assert set(broken[0].values()) == {broken[0]['path'], broken[0]['error'], ''}
  good = [row for row in found if not row['error']]
  detector = memkd_jax.load(run / 'run')
  result = detector([np.asarray(Image.open(row['path'])) for row in good])
  np.testing.assert_allclose([float(row['score']) for row in good], result.scores, rtol=1e-5)
  assert [row['decision'] == 'anomalous' for row in good] == result.decisions.tolist()
  for row, map_, decision in zip(good, result.maps, result.decisions, strict=True):
    name = row['path'].removeprefix(f'{folder}/')
    size = Image.open(row['path']).size
    assert Image.open(out / 'heatmaps' / f'{name}.png').size == size
    raw = np.asarray(Image.open(out / 'maps' / f'{name}.tiff'))
    assert raw.dtype == np.float32 and raw.shape == size[::-1]
    mask = np.asarray(Image.open(out / 'masks' / f'{name}.png'))
    threshold = detector.calibration.pixel_threshold(detector.threshold.false_alarm_rate)
    np.testing.assert_array_equal(mask == 255, decision & (raw > threshold))
    r, c = np.unravel_index(map_.argmax(), map_.shape)
    assert int(row['peak_row']) == int((r + 0.5) * size[1] / 32)
    assert int(row['peak_col']) == int((c + 0.5) * size[0] / 32)
  assert not (out / 'scores.partial.csv').exists()


def test_files_patterns_and_folders(folder):
  everything = list_inputs([str(folder)])
  assert [p.name for p in everything][-2:] == ['001.png', '002.png']
  assert len(everything) == 8
  assert list_inputs([str(folder / 'hole' / '00[01].png')]) == [
    folder / 'hole' / '000.png',
    folder / 'hole' / '001.png',
  ]
  assert len(list_inputs([str(folder / '**' / '*.png'), str(folder / 'hole')])) == 7
  assert list_inputs([str(folder / 'notes.txt')]) == [folder / 'notes.txt']


def test_json_alone_writes_nothing(run, folder, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.rglob('*'))
  arguments = [f'--workdir={run / "run"}', '--json', str(folder / 'wide.bmp')]
  assert predict.main([*arguments, '--false-alarm-rate=0.5']) == 0
  assert json.loads(capsys.readouterr().out)['error'] is None
  assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    ([], 2, 'give images'),
    (['x.png'], 2, '--out'),
    (['--out=out', 'nothing.png'], 1, 'nothing.png names no image'),
    (['--out=out', '--false-alarm-rate=0.01', '{image}'], 1, '3 held-out images support'),
    (['--out={image}', '{image}'], 1, 'File exists'),
    (['--out=out', '--category=nut', '{image}'], 1, 'nut is not among them'),
  ],
)
def test_bad_input(run, folder, capsys, monkeypatch, tmp_path, arguments, code, message):
  monkeypatch.chdir(tmp_path)
  image = folder / 'wide.bmp'
  arguments = [argument.format(image=image) for argument in arguments]
  try:
    found = predict.main([f'--workdir={run / "run"}', *arguments])
  except SystemExit as exit_:
    found = exit_.code
  assert found == code
  assert message in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / 'out' / 'scores.csv').exists()


def test_without_a_threshold(run, folder, tmp_path, capsys):
  shutil.copytree(run / 'run', tmp_path / 'run')
  Workdir(tmp_path / 'run').write_calibration('bolt', 0, None)
  arguments = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path}', str(folder / 'wide.bmp')]
  assert predict.main(arguments) == 0
  assert '--config.train.holdout' in capsys.readouterr().err
  (row,) = rows(tmp_path)
  assert row['score'] and row['p_value'] == row['decision'] == ''
  for flag in ('--masks', '--false-alarm-rate=0.5'):
    assert predict.main([*arguments, flag]) == 1
    assert '--config.train.holdout' in capsys.readouterr().err


def test_interrupted_run_keeps_its_rows_under_another_name(run, folder, tmp_path):
  detector = memkd_jax.load(run / 'run')

  def stop(row):
    raise interrupt.Interrupted('SIGINT')

  with pytest.raises(interrupt.Interrupted):
    predict_paths(detector, list_inputs([str(folder)]), tmp_path, Outputs(), tell=stop)
  assert not (tmp_path / 'scores.csv').exists()
  assert len((tmp_path / 'scores.partial.csv').read_text().splitlines()) == 2


def test_paths_with_dots_stay_in_the_folder(run, folder, tmp_path):
  detector = memkd_jax.load(run / 'run')
  paths = [folder / 'hole' / '..' / '..' / 'new' / 'wide.bmp', folder / 'good' / '000.png']
  out = tmp_path / 'deep' / 'out'
  assert predict_paths(detector, paths, out, Outputs()) == 0
  assert (out / 'heatmaps' / 'wide.bmp.png').is_file()
  assert (out / 'heatmaps' / 'good' / '000.png.png').is_file()
  assert sorted(p.name for p in out.iterdir()) == ['heatmaps', 'scores.csv']


def test_pixel_rate_that_is_none(run, folder, tmp_path, capsys):
  arguments = [f'--workdir={run / "run"}', f'--out={tmp_path}', str(folder / 'wide.bmp')]
  assert predict.main([*arguments, '--masks', '--pixel-rate=0']) == 1
  assert '--pixel-rate=0: give a number between 0 and 1' in capsys.readouterr().err
