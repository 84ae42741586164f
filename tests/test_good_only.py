"""From good images alone to a detector: the layouts that lack something, and `fit`."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from quick import result_of, rows_of, train

import memkd_jax
from memkd_jax import main, methods, predict, run
from memkd_jax.config import values
from memkd_jax.configs import best
from memkd_jax.configs import folder as folder_config
from memkd_jax.errors import UserError
from memkd_jax.run import run_config

pytestmark = pytest.mark.newest


@pytest.fixture
def good(tmp_path, rng):
  """A folder of 30 good images, some of them in a subfolder."""
  folder = tmp_path / 'parts'
  for number in range(30):
    path = folder / ('day2' if number % 3 == 0 else '') / f'{number:02}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 128, (40, 48, 3), np.uint8)).save(path)
  return folder


@pytest.mark.usefixtures('drawn')
def test_a_folder_of_good_images_becomes_a_detector(tmp_path, good, capsys):
  code, workdir = train(tmp_path, f'--good={good}')
  assert code == 0
  shown = capsys.readouterr().out
  assert 'parts: 21 normal images to learn from, 9 held out, 0 normal and 0 anomalous' in shown
  assert 'parts has no test images' in shown
  result = result_of(workdir, 'parts')
  assert result['metrics'] == {}
  assert 'decisions' not in result
  rows = rows_of(workdir, 'parts')
  assert [row['split'] for row in rows] == ['held out'] * 9
  scores = [float(row['score']) for row in rows]
  assert scores == sorted(scores, reverse=True)
  page = (workdir / 'report.html').read_text()
  assert 'If one of these is bad, take it out' in page
  assert 'held-out normal images with the highest scores' in page
  assert '10%: images above' in page
  assert not (workdir / 'parts' / 'seed_0' / 'figure.png').exists()
  detector = memkd_jax.load(workdir)
  white = np.full((40, 48, 3), 255, np.uint8)
  assert detector(white).decisions.tolist() == [True]
  out = tmp_path / 'out'
  assert predict.main([f'--workdir={workdir}', f'--images={good}', f'--out={out}']) == 0
  assert (out / 'scores.csv').read_text().count('\n') == 31


def test_a_list_and_a_table_do_as_well(tmp_path, good):
  names = sorted(p.relative_to(good).as_posix() for p in good.rglob('*.png'))
  (good / 'list.txt').write_text('\n'.join(names[:28]))
  code, workdir = train(tmp_path, f'--good={good / "list.txt"}')
  assert code == 0
  assert result_of(workdir, 'list')['counts'] == {
    'train': 19,
    'test_normal': 0,
    'test_anomalous': 0,
  }
  lines = [f'{name},{"scratch" if i > 27 else "good"}' for i, name in enumerate(names)]
  (good / 'table.csv').write_text('\n'.join(['path,label', *lines]))
  code, workdir = train(tmp_path, f'--good={good / "table.csv"}', out='second')
  assert code == 0
  assert result_of(workdir, 'table')['counts']['test_anomalous'] == 2


def drop_test(category):
  shutil.rmtree(category / 'test')
  shutil.rmtree(category / 'ground_truth')


def drop_normal(category):
  shutil.rmtree(category / 'test' / 'good')


def drop_defects(category):
  shutil.rmtree(category / 'test' / 'hole')
  shutil.rmtree(category / 'ground_truth')


def drop_masks(category):
  shutil.rmtree(category / 'ground_truth')


def drop_a_mask(category):
  (category / 'ground_truth' / 'hole' / '001_mask.png').unlink()


IMAGES = ('I-AUC', 'I-AP', 'I-F1max')
PIXELS = ('P-AUC', 'P-AP', 'P-PRO', 'P-PRO5', 'P-F1max', 'SegF1')


@pytest.mark.parametrize(
  ('drop', 'metrics', 'note'),
  [
    (drop_test, (), 'bolt has no test images'),
    (drop_normal, PIXELS, 'bolt has no normal test images: no I-AUC, I-AP, I-F1max'),
    (drop_defects, (), 'bolt has no anomalous test images'),
    (drop_masks, IMAGES, 'no ground-truth masks for bolt: no pixel metrics'),
    (drop_a_mask, IMAGES + PIXELS, 'bolt: 1 of 3 defective images have no mask'),
  ],
)
def test_what_a_layout_lacks_is_left_out_by_name(
  tmp_path, make_category, drop, metrics, note, capsys
):
  drop(make_category(tmp_path / 'data', train=30))
  code, workdir = train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  assert code == 0, capsys.readouterr()
  results = json.loads((workdir / 'results.json').read_text())
  assert tuple(results['categories']['bolt']) == metrics
  assert any(note in sentence for sentence in results['notes'])
  assert (workdir / 'report.html').exists()
  assert memkd_jax.load(workdir).threshold is not None


def test_few_images_make_a_threshold_all_the_same(tmp_path, good, capsys):
  for path in sorted(good.rglob('*.png'))[12:]:
    path.unlink()
  code, workdir = train(tmp_path, f'--good={good}')
  assert code == 0
  assert '4 further models are trained' in capsys.readouterr().out
  detector = memkd_jax.load(workdir)
  assert len(detector.calibration.scores) == 12
  assert detector.threshold.expected <= 0.1
  assert len(rows_of(workdir, 'parts')) == 12


@pytest.mark.usefixtures('drawn')
def test_pixels_without_a_mask_count_for_nothing(tmp_path, make_category):
  """The figures are those of a set without the image that has no mask."""
  category = make_category(tmp_path / 'data', train=30)
  train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  (category / 'ground_truth' / 'hole' / '001_mask.png').unlink()
  train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  some = result_of(tmp_path / 'run', 'bolt')['metrics']
  (category / 'test' / 'hole' / '001.png').unlink()
  train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  without = result_of(tmp_path / 'run', 'bolt')['metrics']
  assert [some[m] for m in PIXELS] == [without[m] for m in PIXELS]


def test_decisions_are_counted(tmp_path, make_category):
  make_category(tmp_path / 'data', train=30)
  _, workdir = train(tmp_path, f'--config.data.dir={tmp_path / "data"}')
  decisions = result_of(workdir, 'bolt')['decisions']
  rows = [row for row in rows_of(workdir, 'bolt') if row['split'] == 'test']
  alarms = [row for row in rows if float(row['score']) > decisions['threshold']]
  assert decisions['caught'] == sum(row['defect'] == 'hole' for row in alarms)
  assert decisions['false_alarms'] == sum(row['defect'] == 'good' for row in alarms)
  assert decisions['caught'] + decisions['missed'] == 3
  assert [row['decision'] == 'anomalous' for row in rows] == [row in alarms for row in rows]
  sentence = f'{decisions["caught"]} of 3 anomalous test images caught'
  assert sentence in (workdir / 'report.html').read_text()


def test_changed_images_are_noticed(tmp_path, make_category, capsys):
  category = make_category(tmp_path / 'data', train=30)
  flag = f'--config.data.dir={tmp_path / "data"}'
  train(tmp_path, flag)
  model = tmp_path / 'run' / 'bolt' / 'seed_0' / 'model.safetensors'
  first = model.read_bytes()
  capsys.readouterr()
  assert train(tmp_path, flag)[0] == 0
  assert 'bolt: finished already' in capsys.readouterr().out

  shutil.copy(category / 'train' / 'good' / '000.png', category / 'test' / 'good' / 'new.png')
  assert train(tmp_path, flag)[0] == 0
  shown = capsys.readouterr().out
  assert 'of the test images 1 is new (test/good/new.png); they are scored again' in shown
  assert '1 test image is a training image as well' in shown
  assert result_of(tmp_path / 'run', 'bolt')['counts']['test_normal'] == 4
  assert model.read_bytes() == first

  (category / 'train' / 'good' / '005.png').unlink()
  assert train(tmp_path, flag)[0] == 1
  shown = capsys.readouterr().out
  assert 'training images have changed since: 1 is gone (train/good/005.png)' in shown
  assert 'train anew with --force, which replaces the model, or with another --work' in shown
  assert '--warm-start' not in shown  # kNN has no use for it
  assert model.read_bytes() == first
  assert train(tmp_path, flag, '--force')[0] == 0  # the remedy as it is printed
  assert model.read_bytes() != first
  assert 'train/good/005.png' not in result_of(tmp_path / 'run', 'bolt')['images']['train']


def test_a_method_that_learns_anew_needs_no_warm_start(tmp_path, good, capsys):
  train(tmp_path, f'--good={good}')
  flags = (f'--good={good}', f'--warm-start={tmp_path / "run"}')
  assert train(tmp_path, *flags, out='new')[0] == 1
  assert (
    'kNN learns anew from the images in any case; leave the flag out' in capsys.readouterr().err
  )
  assert train(tmp_path, flags[0], out='new')[0] == 0  # the remedy


def test_a_run_without_the_newest_fields_goes_on(tmp_path, make_category, capsys):
  """As one does that an earlier version began."""
  make_category(tmp_path / 'data', train=30)
  flag = f'--config.data.dir={tmp_path / "data"}'
  train(tmp_path, flag)
  path = tmp_path / 'run' / 'config.json'
  from memkd_jax.files.digest import DIGEST, digest

  config = json.loads(path.read_text())
  del config[DIGEST], config['train']['folds'], config['data']['mask_dir']
  path.write_text(json.dumps(config | {DIGEST: digest(config)}))
  capsys.readouterr()
  assert train(tmp_path, flag)[0] == 0
  assert 'finished already' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.data.dir=DIR'], 'without --config, which stands for the demo'),
    (['--good=DIR', '--config.data.dir=DIR'], '--good says where the images are'),
    (['--config.train.epoch=3'], 'has no field'),
  ],
)
def test_contradictions_are_one_sentence(flags, message, capsys):
  assert main.main(flags) == 1
  (sentence,) = capsys.readouterr().err.splitlines()
  assert message in sentence


def quick_fields():
  return {
    'method': 'knn',
    'backbone': 'tiny_basic',
    'teacher_weights': 'random',
    'image_size': 32,
    'share': 1.0,
  }


def test_fit_takes_a_folder_paths_and_arrays(tmp_path, good):
  paths = sorted(good.rglob('*.png'))
  arrays = [np.asarray(Image.open(path)) for path in paths]
  given = {'folder': good, 'paths': paths, 'arrays': arrays}
  white = np.full((40, 48, 3), 255, np.uint8)
  for name, images in given.items():
    detector = memkd_jax.fit(images, tmp_path / name, **quick_fields())
    assert len(detector.calibration.scores) == 9
    assert detector(white).decisions.tolist() == [True]
    again = memkd_jax.load(tmp_path / name)
    assert again(white).scores == detector(white).scores


def test_fit_learns_once_unless_forced(tmp_path, good, capsys):
  memkd_jax.fit(good, tmp_path / 'run', **quick_fields())
  capsys.readouterr()
  memkd_jax.fit(good, tmp_path / 'run', **quick_fields())
  assert 'finished already' in capsys.readouterr().out
  next(good.glob('*.png')).unlink()
  with pytest.raises(UserError, match='training images have changed'):
    memkd_jax.fit(good, tmp_path / 'run', **quick_fields())
  assert memkd_jax.fit(good, tmp_path / 'run', force=True, **quick_fields()).threshold


def test_good_images_are_learned_by_the_best_preset(tmp_path, monkeypatch):
  """Whoever names no method gets the same one everywhere."""
  seen = []

  def run_nothing(config, *_, **__):
    seen.append(config.to_dict())
    return {'failed': {}, 'categories': {}}

  monkeypatch.setattr(run, 'run_config', run_nothing)
  monkeypatch.setattr(run, 'load', lambda *_: None)
  memkd_jax.fit(tmp_path, tmp_path / 'run', epochs=2)
  flags = [f'--good={tmp_path}', f'--workdir={tmp_path / "run"}', '--config.train.epochs=2']
  assert main.main(flags) == 0
  assert seen[0] == seen[1]
  expected = best.get_config()
  expected.data.dataset, expected.data.dir, expected.train.epochs = 'images', str(tmp_path), 2
  assert seen[0] == expected.to_dict()


def test_what_fit_cannot_take_is_refused(tmp_path):
  with pytest.raises(UserError, match='no images to learn from'):
    memkd_jax.fit([], tmp_path)
  with pytest.raises(UserError, match=r'An image is float64 \[4, 4\]'):
    memkd_jax.fit([np.zeros((4, 4))], tmp_path)
  with pytest.raises(UserError, match='no field epoch; did you mean epochs'):
    memkd_jax.fit(tmp_path, tmp_path, epoch=3)


def test_a_backend_that_is_not_there_is_one_sentence(tmp_path, good):
  import os
  import subprocess
  import sys

  for platform in ('cuda', 'tpu'):
    result = subprocess.run(
      [sys.executable, '-m', 'memkd_jax', 'train', f'--good={good}', f'--workdir={tmp_path}'],
      env=os.environ | {'JAX_PLATFORMS': platform},
      capture_output=True,
      text=True,
    )
    assert result.returncode == 1
    *_, sentence = result.stderr.splitlines()
    assert 'Traceback' not in result.stderr
    assert (
      f'JAX finds no device for JAX_PLATFORMS={platform}; set JAX_PLATFORMS=cpu' in sentence
    )


def test_auto_stays_what_it_was_in_a_run(tmp_path, good, monkeypatch, capsys):
  config = methods.get_config(method='knn')
  config.data.dataset, config.data.dir, config.data.image_size = 'images', str(good), 32
  config.model.teacher_weights, config.method.share = 'random', 0.01
  config.model.backbone = 'auto'
  run_config(config, tmp_path / 'run')
  assert 'Teacher: resnet18 (' in capsys.readouterr().out
  monkeypatch.setattr(values, 'choose_backbone', lambda: 'wide_resnet50_2')
  run_config(config, tmp_path / 'run')
  shown = capsys.readouterr().out
  assert 'Teacher: resnet18 (as before' in shown
  assert 'finished already' in shown


def test_the_readmes_lines_of_python_run(tmp_path, good, monkeypatch, capsys):
  from documented import README

  (block,) = re.findall(r'```python\n(import memkd_jax\n.*?)```', README.read_text(), re.S)
  assert block.strip().count('\n') <= 5
  quick = folder_config.get_config('knn')
  quick.data.image_size, quick.method.share = 32, 1.0
  quick.model.backbone, quick.model.teacher_weights = 'tiny_basic', 'random'
  monkeypatch.setattr(best, 'get_config', lambda: quick)
  monkeypatch.setattr(methods, 'fields', lambda method, fields=methods.fields: fields('knn'))
  monkeypatch.chdir(tmp_path)
  good.rename('FOLDER')
  shutil.copy('FOLDER/01.png', 'part.png')
  exec(block, {})
  assert capsys.readouterr().out.rstrip().endswith('(1, 32, 32)')
