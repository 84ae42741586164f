"""What went wrong in users' hands: each kind of fault once, as they would come upon it.

Closer looks at each kind are in the tests of the modules concerned.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from quick import result_of, train

import memkd_jax
from memkd_jax import __main__ as memkd
from memkd_jax import main, predict
from memkd_jax.commands import prepare_tfds, score_maps, weights
from memkd_jax.data.masks import decode_mask
from memkd_jax.metrics import evaluate_pixels

pytestmark = pytest.mark.newest


def save(path, pixels, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)
  return path


def good_images(folder, rng, number=30):
  return [
    save(folder / f'{i:02}.png', rng.integers(0, 128, (40, 48, 3), np.uint8))
    for i in range(number)
  ]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run on 30 good images, and their folder."""
  root = tmp_path_factory.mktemp('field')
  good_images(root / 'parts', np.random.default_rng(0))
  code, workdir = train(root, f'--good={root / "parts"}')
  assert code == 0
  return workdir, root / 'parts'


def said(capsys):
  captured = capsys.readouterr()
  assert 'Traceback' not in captured.err
  return captured.out + captured.err


@pytest.mark.parametrize('layout', ['flat', 'train', 'train_and_test_good'])
def test_01_evaluation_is_no_condition_of_training(tmp_path, rng, layout, capsys):
  if layout == 'flat':
    good_images(tmp_path / 'part', rng)
    code, workdir = train(tmp_path, f'--good={tmp_path / "part"}')
  else:
    good_images(tmp_path / 'data' / 'part' / 'train' / 'good', rng)
    if layout == 'train_and_test_good':
      good_images(tmp_path / 'data' / 'part' / 'test' / 'good', rng, 3)
    code, workdir = train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  assert code == 0
  assert 'so there are no figures' in said(capsys)
  assert memkd_jax.load(workdir).threshold is not None
  assert 'If one of these is bad' in (workdir / 'report.html').read_text()


def test_02_one_image_is_one_result(trained):
  detector = memkd_jax.load(trained[0])
  assert detector(np.full((120, 160, 3), 200, np.uint8)).scores.shape == (1,)
  assert detector(np.full((120, 160), 200, np.uint8)).scores.shape == (1,)


@pytest.mark.parametrize('loss', ['jpeg', 'resized'])
def test_03_masks_with_soft_edges_are_those_that_were_drawn(tmp_path, loss):
  mask = np.zeros((64, 64), np.uint8)
  mask[20:40, 24:48] = 255
  if loss == 'jpeg':
    path = save(tmp_path / 'mask.jpg', mask, quality=75)
  else:
    small = np.asarray(Image.fromarray(mask).resize((32, 32), Image.Resampling.BILINEAR))
    path = tmp_path / 'mask.png'
    Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(path)
  read = decode_mask(path)
  assert evaluate_pixels([read], [(mask > 0).astype(float)]).aupro > 0.9


def test_04_twelve_bits_in_sixteen_are_recognised(tmp_path, rng, capsys):
  def camera(path):
    return save(path, rng.integers(0, 4096, (40, 48), np.uint16))

  for i in range(30):
    camera(tmp_path / 'part' / f'{i:02}.png')
  code, workdir = train(tmp_path, f'--good={tmp_path / "part"}')
  assert code == 0
  assert '12-bit' in said(capsys)
  detector = memkd_jax.load(workdir)
  scores = detector([camera(tmp_path / f'new{i}.png') for i in range(9)]).scores
  assert np.median(scores) < 1.2 * np.median(detector.calibration.scores)


def test_05_the_size_of_every_map_is_checked(tmp_path, make_category, capsys):
  make_category(tmp_path / 'data')
  maps = tmp_path / 'maps' / 'bolt' / 'test'
  for kind, side in (('good', 12), ('hole', 32)):
    for i in range(3):
      save(maps / kind / f'00{i}.tiff', np.full((side, side), i, np.float32))
  arguments = [f'--maps={tmp_path / "maps"}', f'--data={tmp_path / "data"}']
  assert score_maps.main(arguments) == 1
  assert '12' in said(capsys)


def test_06_what_changed_since_is_noticed(tmp_path, make_category, capsys):
  category = make_category(tmp_path / 'data', train=30)
  flag = f'--config.data.dir={tmp_path / "data"}'
  train(tmp_path, flag)
  prepare = ['--dataset=folder', f'--data={tmp_path / "data"}', f'--out={tmp_path / "tfds"}']
  assert prepare_tfds.main(prepare) == 0
  shutil.copy(category / 'train' / 'good' / '000.png', category / 'train' / 'good' / 'x.png')
  capsys.readouterr()
  assert train(tmp_path, flag)[0] == 1
  assert '1 is new (train/good/x.png)' in said(capsys)
  assert prepare_tfds.main(prepare) == 1
  assert '1 is new (train/good/x.png)' in said(capsys)


def test_07_what_is_left_out_is_counted_and_named(tmp_path, trained, rng, capsys):
  folder = tmp_path / 'new'
  good_images(folder / 'day2', rng, 2)
  (folder / 'noname').write_bytes(b'x')
  (folder / 'photo.heic').write_bytes(b'x')
  (tmp_path / 'elsewhere').mkdir()
  good_images(tmp_path / 'elsewhere', rng, 1)
  (folder / 'linked').symlink_to(tmp_path / 'elsewhere')
  pages = [Image.fromarray(rng.integers(0, 128, (8, 8, 3), np.uint8)) for _ in range(2)]
  pages[0].save(folder / 'two.tiff', save_all=True, append_images=pages[1:])
  out = tmp_path / 'out'
  assert predict.main([f'--workdir={trained[0]}', f'--images={folder}', f'--out={out}']) == 0
  shown = said(capsys)
  assert 'noname' in shown
  assert 'photo.heic' in shown
  with (out / 'scores.csv').open(newline='') as file:
    names = [os.path.relpath(row['path'], folder) for row in csv.DictReader(file)]
  assert sorted(names) == [
    'day2/00.png',
    'day2/01.png',
    'linked/00.png',
    'two.tiff#1',
    'two.tiff#2',
  ]


def followed(sentence, pattern):
  """The remedy that a sentence prints, as arguments."""
  return shlex.split(re.search(pattern, sentence)[0])


def test_08_the_remedy_for_a_folder_of_images(tmp_path, rng, capsys):
  good_images(tmp_path / 'part', rng)
  assert train(tmp_path, f'--config.data.dir={tmp_path / "part"}')[0] == 1
  remedy = followed(said(capsys), r'--good=\S+')
  assert train(tmp_path, *remedy, out='second')[0] == 0


def test_08_the_remedy_for_a_category_given_as_the_data(tmp_path, make_category, capsys):
  category = make_category(tmp_path / 'data', train=30)
  assert train(tmp_path, f'--config.data.dir={category}')[0] == 1
  remedy = followed(said(capsys), r'--config\.data\.dir=\S+ --config\.data\.categories=\w+')
  assert train(tmp_path, *remedy, out='second')[0] == 0


def test_08_the_remedy_for_data_without_a_config(tmp_path, rng, capsys):
  good_images(tmp_path / 'part', rng)
  assert main.main([f'--config.data.dir={tmp_path / "part"}']) == 1
  assert '--good=FOLDER' in said(capsys)
  assert train(tmp_path, f'--good={tmp_path / "part"}')[0] == 0


@pytest.mark.parametrize('names', [('good', 'bad'), ('OK', 'NG'), ('normal', 'ko')])
def test_08_other_names_need_no_remedy(tmp_path, make_category, names):
  category = make_category(tmp_path / 'data', train=30)
  for old, new in zip(('good', 'hole'), names, strict=True):
    (category / 'test' / old).rename(category / 'test' / new)
  (category / 'ground_truth' / 'hole').rename(category / 'ground_truth' / names[1])
  assert train(tmp_path, f'--config.data.dir={tmp_path / "data"}')[0] == 0
  counts = result_of(tmp_path / 'run', 'bolt')['counts']
  assert (counts['test_normal'], counts['test_anomalous']) == (3, 3)


def test_08_two_normal_folders_are_told_apart_as_printed(tmp_path, make_category, capsys):
  category = make_category(tmp_path / 'data', train=30)
  (category / 'test' / 'OK').mkdir()
  flag = f'--config.data.dir={tmp_path / "data"}'
  assert train(tmp_path, flag)[0] == 1
  remedy = followed(said(capsys), r'--config\.data\.normal_dir=\w+')
  assert remedy == ['--config.data.normal_dir=OK']
  (category / 'train' / 'good').rename(category / 'train' / 'OK')
  assert train(tmp_path, flag, *remedy)[0] == 0


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_09_a_device_that_is_not_there_is_one_sentence(trained, platform):
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'memkd_jax',
      'predict',
      f'--workdir={trained[0]}',
      f'--images={trained[1]}',
      '--json',
    ],
    env=os.environ | {'JAX_PLATFORMS': platform},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert 'Traceback' not in result.stderr
  *_, sentence = result.stderr.splitlines()
  assert f'no device for JAX_PLATFORMS={platform}' in sentence


@pytest.mark.parametrize('flag', ['--config.train.epoch=3', '--epochs=3', '--config.train=3'])
def test_10_a_wrong_flag_is_one_sentence(flag, capsys):
  assert main.main([flag]) == 1
  assert len(said(capsys).splitlines()) == 1


def test_11_its_own_outputs_are_no_inputs(tmp_path, trained, rng):
  folder = tmp_path / 'new'
  good_images(folder, rng, 2)
  flags = [f'--workdir={trained[0]}', f'--images={folder}', f'--out={folder / "results"}']
  for _ in range(2):
    assert predict.main(flags) == 0
    assert (folder / 'results' / 'scores.csv').read_text().count('\n') == 3


def test_12_few_images_decide_at_no_meaningless_rate(tmp_path, rng, capsys):
  good_images(tmp_path / 'part', rng, 12)
  _, workdir = train(tmp_path, f'--good={tmp_path / "part"}')
  assert memkd_jax.load(workdir).threshold.expected <= 0.1
  _, workdir = train(
    tmp_path, f'--good={tmp_path / "part"}', '--config.train.calibration=holdout', out='one'
  )
  detector = memkd_jax.load(workdir)
  assert detector.threshold is None
  assert detector(np.zeros((8, 8, 3), np.uint8)).p_values is not None
  capsys.readouterr()
  out = tmp_path / 'out'
  flags = [f'--workdir={workdir}', f'--images={tmp_path / "part"}', f'--out={out}']
  assert predict.main(flags) == 0
  remedies = said(capsys)
  rate = followed(remedies, r'--false-alarm-rate=[\d.]+')
  assert predict.main([*flags, *rate]) == 0
  assert memkd.main(['calibrate', f'--workdir={workdir}', f'--good={tmp_path / "part"}']) == 0
  assert memkd_jax.load(workdir).threshold is not None


def test_13_two_networks_in_one_file_are_told_apart(tmp_path, make_state_dict, rng, capsys):
  from safetensors.numpy import save_file

  state = make_state_dict('resnet18', rng)
  both = {f'{p}.{name}': x for p in ('encoder_q', 'encoder_k') for name, x in state.items()}
  save_file(both, tmp_path / 'both.safetensors')
  flags = ['--arch=resnet18', f'--source={tmp_path / "both.safetensors"}']
  flags.append(f'--out={tmp_path / "teacher.safetensors"}')
  assert weights.main(flags) == 1
  shown = said(capsys)
  assert 'encoder_q' in shown
  assert 'encoder_k' in shown
  assert weights.main([*flags, '--prefix=encoder_q']) == 0


def test_14_a_teacher_that_moved_is_asked_for(tmp_path, make_state_dict, rng, capsys):
  from safetensors.numpy import save_file

  save_file(make_state_dict('resnet18', rng), tmp_path / 'state.safetensors')
  teacher = tmp_path / 'teacher.safetensors'
  source = f'--source={tmp_path / "state.safetensors"}'
  assert weights.main(['--arch=resnet18', source, f'--out={teacher}']) == 0
  good_images(tmp_path / 'part', rng)
  flags = [f'--config.model.teacher_weights={teacher}', '--config.model.backbone=resnet18']
  _, workdir = train(tmp_path, f'--good={tmp_path / "part"}', *flags)
  moved = teacher.rename(tmp_path / 'moved.safetensors')
  capsys.readouterr()
  given = [f'--workdir={workdir}', f'--images={tmp_path / "part"}', '--json']
  assert predict.main(given) == 1
  assert '--teacher-weights' in said(capsys)
  assert predict.main([*given, f'--teacher-weights={moved}']) == 0


def test_15_a_request_of_another_host_gets_json(trained):
  testclient = pytest.importorskip('fastapi.testclient')
  from memkd_jax.deploy.serving.app import LOOPBACK_NAMES, create_app
  from memkd_jax.deploy.serving.uploads import Limits

  app = create_app({'parts': memkd_jax.load(trained[0])}, Limits(10**6, 5), LOOPBACK_NAMES)
  client = testclient.TestClient(app, base_url='http://pc:8000')
  response = client.get('/api/models')
  assert response.status_code == 400
  assert '--host' in response.json()['detail']


def test_16_no_operator_but_those_that_runtimes_digest(trained, tmp_path):
  pytest.importorskip('jax2onnx')
  onnx = pytest.importorskip('onnx')
  out = tmp_path / 'part.onnx'
  assert memkd.main(['export', f'--workdir={trained[0]}', f'--out={out}']) == 0
  graph = onnx.load(out).graph
  assert not [node for node in graph.node if node.op_type == 'Einsum' and len(node.input) > 2]


def test_17_words_say_what_is_so(tmp_path, trained, rng, capsys):
  workdir, _ = trained
  assert predict.main([f'--workdir={workdir}', f'--images={tmp_path / "no"}', '--json']) == 1
  assert 'names no image' not in said(capsys)
  folder = tmp_path / 'new'
  good_images(folder, rng, 2)
  out = tmp_path / 'out'
  assert predict.main([f'--workdir={workdir}', f'--images={folder}', f'--out={out}']) == 0
  shown = said(capsys)
  assert 'cpu' in shown
  assert '2 images' in shown
  assert sorted(p.name for p in (out / 'heatmaps').iterdir()) == ['00.png', '01.png']
  with (out / 'scores.csv').open(newline='') as file:
    scores = [row['score'] for row in csv.DictReader(file)]
  assert [f'{float(score):.6g}' for score in scores] == scores


def test_17_all_broken_images_are_named_at_once(tmp_path, rng, capsys):
  paths = good_images(tmp_path / 'part', rng)
  for path in paths[:2]:
    path.write_bytes(b'broken')
  assert train(tmp_path, f'--good={tmp_path / "part"}')[0] == 1
  shown = said(capsys)
  assert '00.png' in shown
  assert '01.png' in shown


def test_17_an_unfinished_run_is_no_category_called_none(tmp_path, trained, capsys):
  copied = tmp_path / 'run'
  shutil.copytree(trained[0], copied)
  for model in copied.rglob('model.json'):
    model.unlink()
  assert predict.main([f'--workdir={copied}', f'--images={trained[1]}', '--json']) == 1
  shown = said(capsys)
  assert 'holds no trained model yet' in shown
  assert 'none' not in shown
