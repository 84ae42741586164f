"""Thresholds in a user's hands: by hand, none where there are few images, and the remedies."""

import json
import re
import shlex
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

import memkd_jax
from memkd_jax import __main__ as memkd
from memkd_jax import calibrate, export, methods, predict, serve
from memkd_jax.deploy import exported
from memkd_jax.deploy.prediction import Outputs, list_inputs
from memkd_jax.deploy.prediction import predict as predict_paths
from memkd_jax.deploy.serving.app import create_app
from memkd_jax.deploy.serving.uploads import Limits
from memkd_jax.detector import load_all
from memkd_jax.errors import UserError
from memkd_jax.files import model
from memkd_jax.run import run_config
from memkd_jax.workdir import Workdir

pytestmark = pytest.mark.newest


@pytest.fixture(scope='module')
def trained(tmp_path_factory, make_config, make_category):
  """A run of kNN with 3 held-out images, and its data."""
  root = tmp_path_factory.mktemp('thresholds')
  make_category(root / 'data', train=12)
  tiny, config = make_config(root / 'data'), methods.get_config('folder', 'knn')
  config.data = tiny.data
  config.model.backbone = tiny.model.backbone
  config.model.teacher_weights = tiny.model.teacher_weights
  config.eval.batch_size = 4
  config.train.holdout = 0.25
  run_config(config, root / 'run')
  return root


@pytest.fixture
def root(trained, tmp_path):
  """A copy that a test may change, with FOLDER of 9 new normal images."""
  shutil.copytree(trained, tmp_path / 'copy')
  rng = np.random.default_rng(7)
  for i in range(9):
    (tmp_path / 'copy' / 'FOLDER').mkdir(exist_ok=True)
    pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'copy' / 'FOLDER' / f'{i}.png')
  return tmp_path / 'copy'


@pytest.fixture
def images(root):
  paths = sorted((root / 'data' / 'bolt' / 'test').rglob('*.png'))
  return [np.asarray(Image.open(path)) for path in paths]


def metadata(path):
  with zipfile.ZipFile(path) as file:
    return json.loads(file.read('metadata.json'))


def score_as_json(root, *flags, capsys):
  image = root / 'FOLDER' / '0.png'
  assert predict.main([f'--workdir={root / "run"}', '--json', str(image), *flags]) == 0
  printed = capsys.readouterr()
  return json.loads(printed.out), printed.err


def test_few_held_out_images_decide_nothing(root, images, capsys):
  detector = memkd_jax.load(root / 'run')
  result = detector(images)
  assert detector.threshold is None and result.decisions is None
  assert result.p_values.tolist() == detector.calibration.p_values(result.scores).tolist()
  why = '3 held-out images support no false-alarm rate of 10%: there are p-values but no'
  assert detector.undecided.startswith(why)
  row, said = score_as_json(root, capsys=capsys)
  assert row['p_value'] and row['decision'] is None
  assert detector.undecided in said
  out = root / 'bolt.memkd'
  assert export.main([f'--workdir={root / "run"}', f'--out={out}']) == 0
  shown = capsys.readouterr().out
  assert f'Note: {detector.undecided}\n' in shown and 'bolt, no threshold,' in shown
  values = metadata(out)
  assert (values['threshold'], values['pixel_threshold']) == (None, None)
  assert values['undecided'] == detector.undecided
  assert len(values['held_out']['scores']) == 3
  flags = serve._parser().parse_args([f'--workdir={root / "run"}'])
  serve._load_models(flags)
  assert f'Note: bolt: {detector.undecided}\n' in capsys.readouterr().out
  masks = [f'--workdir={root / "run"}', '--masks', f'--out={root / "out"}', f'{root}/FOLDER']
  assert predict.main(['--images', masks.pop(), *masks]) == 1
  assert f'--masks needs a threshold. {detector.undecided}' in capsys.readouterr().err


def remedies(sentence):
  """What stands in brackets, as words of a command line."""
  found = re.findall(r'\(([^()]*--[^()]*)\)', sentence)
  return [shlex.split(remedy) for remedy in found]


@pytest.mark.parametrize('number', [3, None])
def test_every_remedy_works(root, images, monkeypatch, capsys, number):
  """Taken literally, but for the names in capitals."""
  if number is None:
    Workdir(root / 'run').write_calibration('bolt', 0, None)
  monkeypatch.chdir(root)
  (root / 'run').rename(root / 'DIR')
  sentence = memkd_jax.load('DIR').undecided
  calibrating, *flags = remedies(sentence)
  assert [flag[0].partition('=')[0] for flag in flags] == (
    ['--threshold'] if number is None else ['--false-alarm-rate', '--threshold']
  )
  for (flag,) in flags:
    row, _ = score_as_json_in('DIR', flag.replace('VALUE', '0.5'), capsys=capsys)
    assert row['decision'] in ('anomalous', 'normal')
  assert calibrating[0] == 'memkd'
  assert memkd.main(calibrating[1:]) == 0
  assert memkd_jax.load('DIR').threshold.expected == 0.1
  capsys.readouterr()

  (alone,) = re.findall(r'with (\d+) or more images', sentence)
  assert int(alone) == len(list((root / 'FOLDER').iterdir()))


def score_as_json_in(workdir, *flags, capsys):
  assert predict.main([f'--workdir={workdir}', '--json', 'FOLDER/0.png', *flags]) == 0
  printed = capsys.readouterr()
  return json.loads(printed.out), printed.err


@pytest.mark.parametrize('calibrated', [True, False])
def test_a_threshold_by_hand(root, images, capsys, calibrated):
  if not calibrated:
    Workdir(root / 'run').write_calibration('bolt', 0, None)
  scores = memkd_jax.load(root / 'run')(images).scores
  value = float(np.median(scores))
  detector = memkd_jax.load(root / 'run', threshold=value)
  result = detector(images)
  np.testing.assert_array_equal(result.decisions, scores > value)
  assert (result.p_values is None) != calibrated
  assert detector.undecided is None
  above = calibrated and sum(detector.calibration.scores > value)
  assert detector.threshold.false_alarm_rate is None
  assert detector.threshold.expected == ((1 + above) / 4 if calibrated else None)

  row, said = score_as_json(root, f'--threshold={value}', capsys=capsys)
  assert row['decision'] == ('anomalous' if row['score'] > value else 'normal')
  assert f'Threshold {value:g}, set by hand: ' in said
  assert ('3 held-out images' if calibrated else 'no images were held out') in said

  out = root / 'bolt.memkd'
  flags = [f'--workdir={root / "run"}', f'--threshold={value}']
  assert export.main([*flags, f'--out={out}']) == 0
  assert 'bolt, threshold ' in capsys.readouterr().out
  values = metadata(out)
  assert values == json.loads(json.dumps(exported.metadata(detector))) | {
    'program': values['program']
  }
  assert values['threshold']['value'] == values['pixel_threshold']['value'] == value
  assert values['threshold']['false_alarm_rate'] is values['pixel_threshold']['rate'] is None
  assert (values['held_out'] is None) != calibrated

  (served,) = serve._load_models(serve._parser().parse_args(flags)).values()
  assert served.threshold == detector.threshold
  endpoint = next(
    route.endpoint
    for route in create_app({'bolt': served}, Limits(1000, 1)).routes
    if route.path == '/api/models'
  )
  info = endpoint().models[0]
  assert (info.threshold.value, info.threshold.false_alarm_rate) == (value, None)
  assert (info.threshold.expected_rate is None) != calibrated
  assert (info.undecided, info.has_p_values) == (None, calibrated)
  assert [d.threshold.value for d in load_all(root / 'run', threshold=value)] == [value]


def test_masks_by_hand(root, images, capsys):
  """What is above the threshold itself, or above that of a share of normal pixels."""
  folder, out = root / 'data' / 'bolt' / 'test', root / 'out'
  detector = memkd_jax.load(root / 'run', threshold=0.0)
  assert detector.pixel_threshold() == 0
  assert predict_paths(detector, list_inputs([str(folder)]), out, Outputs(masks=True)) == 0
  masks = [np.asarray(Image.open(path)) for path in (out / 'masks').rglob('*.png')]
  assert len(masks) == 6 and np.mean(masks) == 255
  assert detector.pixel_threshold(0.5) == detector.calibration.pixel_threshold(0.5)
  Workdir(root / 'run').write_calibration('bolt', 0, None)
  flags = [f'--workdir={root / "run"}', f'--images={folder}', f'--out={out}', '--masks']
  assert predict.main([*flags, '--threshold=0.5', '--pixel-rate=0.1']) == 1
  assert '--pixel-rate=0.1 is counted on held-out images' in capsys.readouterr().err
  assert predict.main([*flags, '--threshold=0.5']) == 0


def test_no_threshold(root, capsys):
  for value in ('nan', 'inf', '-inf'):
    with pytest.raises(UserError, match=f'--threshold={value}: give a finite number'):
      memkd_jax.load(root / 'run', threshold=float(value))
    assert calibrate.main([f'--workdir={root / "run"}', f'--threshold={value}']) == 1
    assert f'--threshold={value}: give a finite number.' in capsys.readouterr().err
  for loader in (memkd_jax.load, load_all):
    with pytest.raises(UserError, match='--threshold and --false-alarm-rate exclude each'):
      loader(root / 'run', threshold=1.0, false_alarm_rate=0.5)
  for command, flags in (
    (predict, ['--threshold=1', '--false-alarm-rate=0.5', '--json', 'x.png']),
    (export, ['--threshold=1', '--false-alarm-rate=0.5', '--out=x']),
    (serve, ['--threshold=1', '--false-alarm-rate=0.5']),
    (calibrate, ['--threshold=1', '--good=FOLDER']),
    (calibrate, []),
  ):
    with pytest.raises(SystemExit) as ended:
      command.main([f'--workdir={root / "run"}', *flags])
    assert ended.value.code == 2
    assert '--threshold' in capsys.readouterr().err


def test_a_threshold_is_kept_until_the_next_calibration(root, images, capsys):
  workdir = root / 'run'
  before = memkd_jax.load(workdir)
  assert calibrate.main([f'--workdir={workdir}', '--threshold=0.25']) == 0
  was, now, wrote = capsys.readouterr().out.splitlines()
  assert was == f'Before: {before.undecided}'
  assert now.startswith('Now:    Threshold 0.25, set by hand: of normal images 100% are')
  assert wrote == 'Wrote the threshold of bolt.'
  facts = json.loads((workdir / 'bolt' / 'seed_0' / model.FACTS).read_text())
  assert facts['threshold'] == 0.25
  detector = memkd_jax.load(workdir)
  assert (detector.threshold.value, detector.threshold.false_alarm_rate) == (0.25, None)
  np.testing.assert_array_equal(detector.calibration.scores, before.calibration.scores)
  assert load_all(workdir)[0].threshold == detector.threshold
  # What is asked for counts before it.
  assert memkd_jax.load(workdir, threshold=3).threshold.value == 3
  assert memkd_jax.load(workdir, false_alarm_rate=0.5).threshold.false_alarm_rate == 0.5
  # A run that goes on leaves it alone, and one that sets a calibration removes it.
  config = Workdir(workdir).read_model('bolt', 0).config
  config.data.bit_depth = 'auto'  # as the run had it
  run_config(config, workdir)
  assert memkd_jax.load(workdir).threshold.value == 0.25
  capsys.readouterr()
  assert calibrate.main([f'--workdir={workdir}', f'--good={root / "FOLDER"}']) == 0
  was = capsys.readouterr().out.splitlines()[0]
  assert was.startswith('Before: Threshold 0.25, set by hand: ')
  assert memkd_jax.load(workdir).threshold.false_alarm_rate == 0.1

  # Of a model alone, copied from a run.
  alone = root / 'alone'
  alone.mkdir()
  for name in (model.FACTS, model.TENSORS):
    shutil.copy(workdir / 'bolt' / 'seed_0' / name, alone)
  assert calibrate.main([f'--workdir={alone}', '--threshold=-1']) == 0
  assert memkd_jax.load(alone).threshold.value == -1
  # A file that somebody changed.
  facts = model.read_facts(alone)
  model.write_facts(alone, facts | {'threshold': 'high'})
  with pytest.raises(UserError, match=r'is damaged .its threshold is no number'):
    memkd_jax.load(alone)


def test_other_maps_leave_no_threshold_by_hand(root, capsys):
  workdir = Workdir(root / 'run')
  workdir.write_threshold('bolt', 0, 0.25)
  config = workdir.read_model('bolt', 0).config
  config.data.bit_depth = 'auto'
  config.anomaly_map.sigma = 1.0
  run_config(config, workdir.root, 'evaluate')
  assert 'Note: the threshold of bolt was one of other maps' in capsys.readouterr().out
  assert workdir.read_model('bolt', 0).threshold is None


def test_another_product_of_the_method_is_one_of_the_model(root, capsys):
  """As if it had been fitted so: its config, and its held-out scores."""
  workdir = Workdir(root / 'run')
  workdir.write_threshold('bolt', 0, 0.25)
  before = workdir.read_model('bolt', 0)
  config = before.config.copy_and_resolve_references()
  config.data.bit_depth, config.method.products = 'auto', 'bfloat16'
  run_config(config, workdir.root, 'evaluate')
  assert 'Note: the threshold of bolt was one of other maps' in capsys.readouterr().out
  run_config(config, root / 'fresh')
  after, fresh = (
    Workdir(folder).read_model('bolt', 0) for folder in (workdir.root, root / 'fresh')
  )
  assert after.threshold is None and after.config.method.products == 'bfloat16'
  assert (after.calibration.scores != before.calibration.scores).any()
  np.testing.assert_array_equal(after.calibration.scores, fresh.calibration.scores)


def test_images_of_a_list(root, capsys):
  names = [f'FOLDER/{i}.png' for i in range(8)] + [str(root / 'FOLDER' / '8.png')]
  listed = root / 'good.txt'
  listed.write_text('\n'.join(names) + '\n\n')
  assert calibrate.list_good(str(listed)) == [root / 'FOLDER' / f'{i}.png' for i in range(9)]
  assert calibrate.main([f'--workdir={root / "run"}', f'--good={listed}']) == 0
  assert 'Wrote the threshold of bolt, from 9 images.' in capsys.readouterr().out
  listed.write_text('FOLDER/0.png\nFOLDER/x.png\ny.png\n')
  for content, message in (
    ('FOLDER/0.png\nFOLDER/x.png\ny.png\n', r'not there: \S+/FOLDER/x.png, \S+/y.png; write'),
    ('\n', 'names no image; write a path a line'),
  ):
    listed.write_text(content)
    with pytest.raises(UserError, match=message):
      calibrate.list_good(str(listed))
  listed.write_bytes(b'\xff\xfe\xfa')
  with pytest.raises(UserError, match='is no list of images'):
    calibrate.list_good(str(listed))


def test_broken_images_are_all_named(root, capsys):
  for name in ('a.png', 'b.png'):
    (root / 'FOLDER' / name).write_bytes(b'no image')
  before = (root / 'run' / 'bolt' / 'seed_0' / model.FACTS).read_bytes()
  assert calibrate.main([f'--workdir={root / "run"}', f'--good={root / "FOLDER"}']) == 1
  said = capsys.readouterr().err.splitlines()[-1]
  assert '2 of 11 images cannot be read' in said
  assert 'FOLDER/a.png' in said and 'FOLDER/b.png' in said
  assert (root / 'run' / 'bolt' / 'seed_0' / model.FACTS).read_bytes() == before


def test_training_images_are_noticed(root, capsys):
  for good, noticed in (('data/bolt/train/good', True), ('FOLDER', False)):
    assert calibrate.main([f'--workdir={root / "run"}', f'--good={root / good}']) == 0
    said = capsys.readouterr().err
    assert ('holds the very images that bolt was trained on' in said) == noticed
