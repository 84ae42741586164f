import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import predict
from memkd_jax.data import bit_depth
from memkd_jax.deploy.prediction import Outputs, list_inputs
from memkd_jax.deploy.prediction import predict as predict_paths
from memkd_jax.deploy.results import picture_names
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.runtime import compile_cache, interrupt
from memkd_jax.workdir import Workdir


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_quick_config, make_category):
  root = tmp_path_factory.mktemp('predict')
  make_category(root / 'data', train=12, size=48)
  config = make_quick_config(root / 'data')
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
  arguments.append('--false-alarm-rate=0.25')
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
  detector = memkd_jax.load(run / 'run', false_alarm_rate=0.25)
  result = detector([np.asarray(Image.open(row['path'])) for row in good])
  np.testing.assert_allclose([float(row['score']) for row in good], result.scores, rtol=1e-5)
  assert [row['decision'] == 'anomalous' for row in good] == result.decisions.tolist()
  for row, map_, decision in zip(good, result.maps, result.decisions, strict=True):
    name = str(Path(row['path']).relative_to(folder).with_suffix(''))
    size = Image.open(row['path']).size
    assert Image.open(out / 'heatmaps' / f'{name}.png').size == size
    raw = np.asarray(Image.open(out / 'maps' / f'{name}.tiff'))
    assert raw.dtype == np.float32 and raw.shape == size[::-1]
    mask = np.asarray(Image.open(out / 'masks' / f'{name}.png'))
    threshold = detector.calibration.pixel_threshold(0.001)
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
    (['--out=out', 'nothing.png'], 1, 'nothing.png does not exist; give a folder'),
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
  assert 'Note: No images were held out: ' in capsys.readouterr().err
  (row,) = rows(tmp_path)
  assert row['score'] and row['p_value'] == row['decision'] == ''
  for flag in ('--masks', '--false-alarm-rate=0.5'):
    assert predict.main([*arguments, flag]) == 1
    assert 'set a threshold by hand (--threshold=VALUE)' in capsys.readouterr().err


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
  assert (out / 'heatmaps' / 'wide.png').is_file()
  assert (out / 'heatmaps' / 'good' / '000.png').is_file()
  assert sorted(p.name for p in out.iterdir()) == ['heatmaps', 'scores.csv']


def test_pixel_rate_that_is_none(run, folder, tmp_path, capsys):
  arguments = [f'--workdir={run / "run"}', f'--out={tmp_path}', str(folder / 'wide.bmp')]
  arguments.append('--false-alarm-rate=0.25')
  assert predict.main([*arguments, '--masks', '--pixel-rate=0']) == 1
  assert '--pixel-rate=0: give a number between 0 and 1' in capsys.readouterr().err


def test_a_second_run_does_not_score_what_the_first_one_wrote(run, folder, capsys):
  arguments = [f'--workdir={run / "run"}', f'--images={folder}', '--maps']
  for out in ('results', '.', 'results'):
    assert predict.main([*arguments, f'--out={folder / out}']) == 1
    found = [row['path'] for row in rows(folder / out)]
    assert len(found) == 8
    assert not [path for path in found if 'heatmaps' in path or 'maps' in path]
  assert f'memkd predict, which are no input ({folder}' in capsys.readouterr().err
  pattern = str(folder / '**' / '*.png')
  left_out = []
  assert len(list_inputs([pattern], left_out)) == 7
  assert {item.kind for item in left_out} == {'file or folder that memkd predict has written'}


def test_what_is_left_out_and_what_was_decided_is_counted(run, folder, tmp_path, capsys):
  (folder / 'photo.heic').write_bytes(b'')
  (folder / 'IMG_1').write_bytes(b'')
  arguments = [f'--workdir={run / "run"}', f'--images={folder}', f'--out={tmp_path / "out"}']
  assert predict.main([*arguments, '--false-alarm-rate=0.5']) == 1
  said = capsys.readouterr().err
  decisions = [row['decision'] for row in rows(tmp_path / 'out')]
  anomalous, normal = decisions.count('anomalous'), decisions.count('normal')
  assert f'1 file without a suffix ({folder / "IMG_1"})' in said
  assert f'1 file with the suffix .heic ({folder / "photo.heic"})' in said
  assert 'Scoring 8 images on cpu; compiling first' in said
  assert (
    f'8 images: {anomalous} anomalous, {normal} normal, 1 unreadable; 3 others were left out.'
    in said
  )


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    ('{folder}/none', '/none does not exist; give a folder'),
    ('{folder}/empty', '/empty holds no images; .* Left out: 1 file .*a\\.txt'),
    ('{folder}/none/*.png', r'/none/\*\.png is a pattern that no image matches'),
  ],
)
def test_what_names_no_image_says_why(folder, pattern, message):
  (folder / 'empty').mkdir()
  (folder / 'empty' / 'a.txt').write_bytes(b'')
  with pytest.raises(UserError, match=message):
    list_inputs([pattern.format(folder=folder)])


def test_pages_are_images_of_their_own(run, tmp_path):
  pages = [Image.new('RGB', (40, 40), (value, 0, 0)) for value in (0, 100, 200)]
  pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
  pages[1].save(tmp_path / 'b.png')
  detector = memkd_jax.load(run / 'run')
  out = tmp_path / 'out'
  inputs = [tmp_path / 'a.tif', tmp_path / 'b.png']
  assert predict_paths(detector, inputs, out, Outputs()) == 0
  found = {row['path']: row['score'] for row in rows(out)}
  names = [f'{tmp_path}/a.tif#{number}' for number in (1, 2, 3)]
  assert list(found) == [*names, str(tmp_path / 'b.png')]
  assert found[names[1]] == found[str(tmp_path / 'b.png')]
  assert len(set(found.values())) == 3
  expected = ['a.tif#1.png', 'a.tif#2.png', 'a.tif#3.png', 'b.png']
  assert sorted(p.name for p in (out / 'heatmaps').iterdir()) == expected


def test_numbers_have_six_digits_at_most(run, folder, tmp_path):
  arguments = [f'--workdir={run / "run"}', f'--images={folder}', f'--out={tmp_path / "out"}']
  predict.main(arguments)
  for row in rows(tmp_path / 'out'):
    for value in (row['score'], row['p_value']):
      assert len(value.replace('.', '').lstrip('0')) <= 6


def test_pictures_keep_a_suffix_only_to_differ():
  paths = [Path(name) for name in ('n1.png', 'n2.png', 'n2.jpg', 'in/n1.png', 'n2.jpg.bmp')]
  assert list(map(str, picture_names(paths).values())) == [
    'n1',
    'n2.png',
    'n2.jpg',
    'in/n1',
    'n2.jpg.bmp',
  ]
  assert str(picture_names([Path('n1.png'), Path('x/../n1.png')])[Path('n1.png')]) == 'n1'


def test_values_above_the_range_of_the_training_images_are_noted(run, tmp_path, capsys):
  shutil.copytree(run / 'run', tmp_path / 'run')
  trained = Workdir(tmp_path / 'run').read_model('bolt', 0)
  Workdir(tmp_path / 'run').write_model(
    dataclasses.replace(trained, config=bit_depth.in_config(trained.config, 12))
  )
  grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
  Image.fromarray(grey).save(tmp_path / 'a.png')
  Image.fromarray(np.round(grey * (4095 / 255)).astype(np.uint16)).save(tmp_path / 'b.png')
  Image.fromarray(np.full((16, 16), 5000, np.uint16)).save(tmp_path / 'c.png')
  files = [str(tmp_path / f'{name}.png') for name in 'abc']
  arguments = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}', *files]
  assert predict.main(arguments) == 0
  assert '1 image holds values above 4095' in capsys.readouterr().err
  first, second, _ = rows(tmp_path / 'out')
  assert first['score'] == second['score']


def test_regions(run, tmp_path, capsys):
  out, data = tmp_path / 'out', run / 'data' / 'bolt' / 'test'
  flags = [f'--workdir={run / "run"}', f'--images={data}', f'--out={out}']
  flags += ['--false-alarm-rate=0.25', '--pixel-rate=0.05', '--masks', '--json']
  assert predict.main([*flags, '--regions']) == 0
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert not (out / 'regions.partial.csv').exists()
  with (out / 'regions.csv').open(newline='') as file:
    found = list(csv.DictReader(file))
  listed = [(line['path'], region) for line in lines for region in line['regions']]
  assert len(found) == len(listed) > 0
  for row, (path, region) in zip(found, listed, strict=True):
    assert row.pop('path') == path
    assert list(row) == list(region)
    np.testing.assert_allclose([float(v) for v in row.values()], list(region.values()), 1e-5)
  # All regions of an image together are its mask.
  coco = pytest.importorskip('pycocotools.coco')
  read = coco.COCO(str(out / 'regions.coco.json'))
  assert [image['file_name'] for image in read.dataset['images']] == [x['path'] for x in lines]
  for image in read.loadImgs(read.getImgIds()):
    own = read.loadAnns(read.getAnnIds(image['id']))
    together = np.zeros((image['height'], image['width']), int)
    for annotation in own:
      part = read.annToMask(annotation)
      together += part
      left, top, width, height = annotation['bbox']
      assert part.sum() == annotation['area']
      assert part[top : top + height, left : left + width].sum() == annotation['area']
    name = Path(image['file_name']).relative_to(data).with_suffix('.png')
    mask = np.asarray(Image.open(out / 'masks' / name)) > 0
    np.testing.assert_array_equal(together, mask)


def test_a_smallest_area(run, tmp_path, capsys):
  flags = [f'--workdir={run / "run"}', f'--images={run / "data" / "bolt" / "test"}', '--json']
  flags += ['--false-alarm-rate=0.25', '--pixel-rate=0.05']

  def anomalous(*further):
    assert predict.main([*flags, *further]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return {line['path']: line.get('regions') for line in lines if line['decision'] != 'normal'}

  before = anomalous('--min-area=1')
  assert before and set(before) <= set(anomalous())
  largest = max(region['area'] for regions in before.values() for region in regions)
  after = anomalous(f'--min-area={largest}')
  assert {r['area'] for regions in after.values() for r in regions} == {largest}
  assert anomalous(f'--min-area={largest + 1}') == {}
  with pytest.raises(SystemExit):
    predict.main([*flags, '--min-area=0'])


def test_regions_need_a_threshold(make_quick_config, make_category, tmp_path, capsys):
  make_category(tmp_path / 'data', train=12, size=48)
  run_config(make_quick_config(tmp_path / 'data'), tmp_path / 'run')
  image = tmp_path / 'data' / 'bolt' / 'test' / 'good' / '000.png'
  for flag in ('--regions', '--min-area=3'):
    flags = [f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}', str(image), flag]
    assert predict.main(flags) == 1
    assert f'{flag.split("=")[0]} needs a threshold.' in capsys.readouterr().err


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason='this JAX reads no programs on CPUs')
@pytest.mark.skipif(compile_cache.processor() is None, reason='of an unknown kind')
def test_a_process_leaves_its_program_to_the_next(run, folder, tmp_path):
  # Of models in float32: those of bfloat16 call oneDNN, and cannot be kept.
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': '',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'MEMKD_CACHE': str(tmp_path / 'programs'),
  }
  command = [sys.executable, '-m', 'memkd_jax', 'predict', '--json']
  command += [f'--workdir={run / "run"}', str(next((folder / 'good').iterdir()))]
  subprocess.run(command, env=environment, check=True, capture_output=True)
  assert list((tmp_path / 'programs').rglob('jit_score-*'))
