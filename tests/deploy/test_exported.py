"""Exported models: without the package, and equal to the detector."""

import hashlib
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

import memkd_jax
from memkd_jax import export, methods
from memkd_jax.deploy import exported as exporting
from memkd_jax.detector import Detector, Program
from memkd_jax.methods.base import Task
from memkd_jax.run import run_config
from memkd_jax.runtime.devices import Devices
from memkd_jax.workdir import TrainedModel

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / 'examples' / 'run_exported.py'
# Comes before all else on the path, and keeps what is installed from being found.
BLOCKER = """
import sys

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in ('memkd_jax', 'flax', 'orbax', 'optax', 'ml_collections'):
      raise ModuleNotFoundError(f'{name} is blocked', name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory, make_config, make_category):
  """A finished tiny run with held-out images, and its data."""
  folder = tmp_path_factory.mktemp('run')
  make_category(folder / 'data', train=14, size=40)
  config = make_config(folder / 'data')
  config.train.epochs = 1
  config.train.holdout = 0.3
  run_config(config, folder / 'work', 'train')
  return folder


@pytest.fixture(scope='module')
def detector(run):
  return memkd_jax.load(run / 'work', 'bolt', false_alarm_rate=0.3)


@pytest.fixture(scope='module')
def exported(run, detector):
  out = run / 'new' / 'bolt.memkd'
  exporting.write(detector, out)
  return out


def read(path):
  with zipfile.ZipFile(path) as file:
    assert sorted(file.namelist()) == [exporting.METADATA, exporting.PROGRAM]
    assert file.testzip() is None
    return json.loads(file.read(exporting.METADATA)), file.read(exporting.PROGRAM)


@pytest.mark.parametrize('kind', ['stage', 'position'])
def test_normalised_maps_are_in_the_program(
  tmp_path, make_quick_config, make_category, rng, kind
):
  make_category(tmp_path / 'data', train=14)
  config = make_quick_config(tmp_path / 'data')
  config.train.holdout = 0.3
  config.anomaly_map.normalize, config.anomaly_map.image_score = kind, 'top'
  run_config(config, tmp_path / 'work')
  detector = memkd_jax.load(tmp_path / 'work')
  exporting.write(detector, tmp_path / 'bolt.memkd')
  metadata, content = read(tmp_path / 'bolt.memkd')
  images = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
  maps, scores = jax_export.deserialize(bytearray(content)).call(images)
  expected = detector(images)
  np.testing.assert_allclose(maps, expected.maps, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(scores, expected.scores, rtol=1e-4)
  assert kind in metadata['outputs']['maps']
  assert 'highest hundredth' in metadata['outputs']['scores']


@pytest.mark.parametrize('number', [1, 3, 16])
def test_the_program_is_the_detector(exported, detector, number, rng):
  _, content = read(exported)
  program = jax_export.deserialize(bytearray(content))
  images = rng.integers(0, 256, (number, 32, 32, 3), np.uint8)
  maps, scores = program.call(images)
  expected = detector(images)
  assert (maps.dtype, scores.dtype) == (np.float32, np.float32)
  np.testing.assert_allclose(maps, expected.maps, atol=1e-6)
  np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
  assert np.ptp(expected.maps) > 1e-3  # or any map would do


@pytest.mark.parametrize('name', ['cfa', pytest.param('students', marks=pytest.mark.slow)])
def test_the_program_of_another_family_is_its_detector(
  name, make_config, make_method, tmp_path, rng
):
  config, tiny = methods.get_config('folder', name), make_config(tmp_path)
  config.data, config.eval, config.train.epochs = tiny.data, tiny.eval, 1
  for field in ('backbone', 'teacher_weights'):
    config.model[field] = tiny.model[field]
  config = methods.resolve(config)
  images = rng.integers(0, 256, (16, 32, 32, 3), np.uint8)
  method = make_method(config, Devices(jax.devices()[:1]))
  params = method.fit(Task.of_category('bolt', 0), images, tmp_path).params
  trained = TrainedModel('bolt', 0, config, 'random', params, len(images), '', {}, None)
  detector = Detector(trained, Program.build(trained, None), None)
  exporting.write(detector, tmp_path / 'bolt.memkd')
  program = jax_export.deserialize(bytearray(read(tmp_path / 'bolt.memkd')[1]))
  maps, scores = program.call(images[:3])
  expected = detector(images[:3])
  np.testing.assert_allclose(maps, expected.maps, atol=1e-5)
  np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
  assert np.ptp(expected.maps) > 1e-3


def test_the_metadata_says_all(exported, detector):
  metadata, content = read(exported)
  threshold = detector.threshold
  assert metadata['category'] == 'bolt'
  assert metadata['image_size'] == 32
  assert metadata['model'] == {
    'method': 'MemKD',
    'backbone': 'tiny_basic',
    'dtype': 'float32',
  }
  assert metadata['threshold']['value'] == threshold.value
  assert metadata['threshold']['false_alarm_rate'] == 0.3
  assert metadata['threshold']['interval'] == list(threshold.interval)
  assert metadata['pixel_threshold']['value'] == detector.calibration.pixel_threshold(0.001)
  assert metadata['held_out'] == detector.calibration.to_json()
  assert any('random' in note for note in metadata['notes'])
  program = metadata['program']
  assert program['sha256'] == hashlib.sha256(content).hexdigest()
  assert program['platforms'] == ['cpu', 'cuda', 'tpu']
  assert program['jax'] == jax.__version__
  deserialized = jax_export.deserialize(bytearray(content))
  assert program['calling_convention_version'] == deserialized.calling_convention_version


def test_parameters_are_written_once(exported, detector):
  parameters = (detector.trained.params, detector.program.teacher_params)
  size = sum(x.nbytes for x in jax.tree.leaves(parameters))
  # The rest is the operations, which do not grow with the widths.
  assert exported.stat().st_size < size + 1_000_000
  alone = jax_export.export(
    jax.jit(lambda images: detector.program.pipeline.score(*parameters, images)),
    platforms=['cpu'],
  )(jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8))
  assert exported.stat().st_size < 2 * len(alone.serialize()) + size


def test_the_example_needs_no_package(run, exported, detector, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(BLOCKER)
  environment = os.environ | {'PYTHONPATH': str(tmp_path)}
  blocked = subprocess.run(
    [sys.executable, '-c', 'import memkd_jax'],
    env=environment,
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert 'memkd_jax is blocked' in blocked.stderr
  check_example([sys.executable], environment, run, exported, detector)


@pytest.mark.slow
def test_the_example_in_a_fresh_environment(run, exported, detector, tmp_path):
  """Takes a minute, and a package index."""
  venv.create(tmp_path / 'venv', with_pip=True)
  python = str(tmp_path / 'venv' / 'bin' / 'python')
  packages = [f'jax=={jax.__version__}', 'flatbuffers', 'numpy', 'pillow']
  install = [python, '-m', 'pip', 'install', '-q', *packages]
  if subprocess.run(install, capture_output=True).returncode:
    pytest.skip('needs a package index')
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  check_example([python], environment, run, exported, detector)


def check_example(python, environment, run, exported, detector):
  paths = sorted((run / 'data' / 'bolt' / 'test').glob('*/*.png'))
  result = subprocess.run(
    [*python, str(EXAMPLE), str(exported), *map(str, paths)],
    env=environment,
    cwd=exported.parent,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  rows = [line.split('\t') for line in result.stdout.splitlines()]
  assert [row[0] for row in rows] == [str(path) for path in paths]
  expected = detector([np.asarray(Image.open(path)) for path in paths])
  np.testing.assert_allclose([float(row[1]) for row in rows], expected.scores, atol=2e-6)
  decisions = ['ANOMALOUS' if d else 'normal' for d in expected.decisions]
  assert [row[2] for row in rows] == decisions


def test_the_example_names_the_version_that_reads_the_file(exported, tmp_path):
  metadata, content = read(exported)
  with zipfile.ZipFile(tmp_path / 'other.memkd', 'w') as file:
    file.writestr(exporting.METADATA, json.dumps(metadata))
    file.writestr(exporting.PROGRAM, content[:100])
  command = [sys.executable, str(EXAMPLE), str(tmp_path / 'other.memkd')]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 1
  assert f'was written with jax {jax.__version__} and cannot be read' in done.stderr
  assert 'Traceback' not in done.stderr


def test_the_command(run, detector, tmp_path, capsys):
  out = tmp_path / 'deep' / 'bolt.memkd'
  export.main([f'--workdir={run / "work"}', f'--out={out}', '--false-alarm-rate=0.3'])
  metadata, _ = read(out)
  assert metadata['threshold']['value'] == detector.threshold.value
  shown = capsys.readouterr().out
  assert f'Wrote {out}: bolt, threshold ' in shown
  assert 'Note: The teacher is random' in shown
  assert [path.name for path in out.parent.iterdir()] == ['bolt.memkd']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--workdir=RUN/none'], 'holds no run'),
    (['--category=nut'], 'nut is not among them'),
    (['--seed=7'], 'holds no model with seed 7; it holds bolt with seed 0'),
    (['--false-alarm-rate=0.001'], 'held-out images support no false-alarm rate below'),
    (['--false-alarm-rate=2'], 'between 0 and 1'),
    (['--teacher-weights=RUN/none.safetensors'], 'random teacher: leave --teacher-weights out'),
    (['--out=RUN/data'], 'data is a folder; name a file with --out.'),
    (['--out=RUN/work/config.json/bolt.memkd'], 'config.json'),
  ],
)
def test_bad_input_ends_in_a_sentence(run, tmp_path, capsys, arguments, message):
  given = [argument.replace('RUN', str(run)) for argument in arguments]
  before = sorted(run.rglob('*'))
  assert (
    export.main([f'--workdir={run / "work"}', f'--out={tmp_path / "x.memkd"}', *given]) == 1
  )
  (sentence,) = capsys.readouterr().err.splitlines()
  assert sentence.startswith('export: ')
  assert message in sentence
  assert not list(tmp_path.iterdir())
  assert sorted(run.rglob('*')) == before


@pytest.mark.parametrize('arguments', [[], ['--workdir=x', '--out=y', '--bogus=1']])
def test_usage_errors_exit_with_2(arguments, capsys):
  with pytest.raises(SystemExit) as raised:
    export.main(arguments)
  assert raised.value.code == 2
  assert 'Traceback' not in capsys.readouterr().err
