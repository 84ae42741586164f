import csv
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

import memkd_jax
from memkd_jax import export, predict, train

EXAMPLE = Path(__file__).parents[1] / 'examples' / 'run_exported.py'
# A finder that comes first and knows that there is no memkd_jax.
BLOCKER = """
import sys

class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] == 'memkd_jax':
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A run, and its model exported by the command."""
  from conftest import make_tiny_config, write_category

  root = tmp_path_factory.mktemp('export')
  write_category(root / 'data', train=12, size=48)
  config = make_tiny_config(root / 'data')
  config.train.epochs = 2
  config.train.holdout = 0.25
  train.run(config, root / 'run')
  arguments = [f'--workdir={root / "run"}', '--category=bolt', f'--out={root / "bolt.memkd"}']
  assert export.main(arguments) == 0
  return root


def read(path):
  with zipfile.ZipFile(path) as archive:
    assert archive.testzip() is None
    assert set(archive.namelist()) == {'model.jaxexport', 'metadata.json'}
    return archive.read('model.jaxexport'), json.loads(archive.read('metadata.json'))


def test_program_gives_what_the_detector_gives(exported, rng):
  program, _ = read(exported / 'bolt.memkd')
  model = jax_export.deserialize(bytearray(program))
  assert model.platforms == ('cpu', 'cuda', 'tpu')
  detector = memkd_jax.load(exported / 'run')
  for number in (1, 3, 6):
    images = rng.integers(0, 256, (number, 32, 32, 3), np.uint8)
    maps, scores = model.call(images)
    assert maps.dtype == scores.dtype == np.float32
    result = detector(images)
    np.testing.assert_allclose(maps, result.maps, rtol=1e-5)
    np.testing.assert_allclose(scores, result.scores, rtol=1e-5)


def test_metadata_says_the_rest(exported):
  program, metadata = read(exported / 'bolt.memkd')
  detector = memkd_jax.load(exported / 'run')
  assert metadata['image_size'] == 32
  assert metadata['sha256']['model.jaxexport'] == hashlib.sha256(program).hexdigest()
  assert metadata['threshold']['value'] == detector.threshold.value
  assert metadata['threshold']['false_alarm_rate'] == 0.25
  assert metadata['threshold']['held_out_scores'] == detector.calibration.scores.tolist()
  assert metadata['versions']['memkd_jax'] == memkd_jax.__version__
  assert 'random' in metadata['notes'][0]


def run_example(exported, tmp_path, python):
  (tmp_path / 'sitecustomize.py').write_text(BLOCKER)
  images = sorted((exported / 'data' / 'bolt' / 'test').rglob('*.png'))
  environment = os.environ | {'PYTHONPATH': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  found = subprocess.run(
    [python, EXAMPLE, exported / 'bolt.memkd', *images],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert found.returncode == 0, found.stderr
  blocked = subprocess.run(
    [python, '-c', 'import memkd_jax'], cwd=tmp_path, env=environment, capture_output=True
  )
  assert b'ModuleNotFoundError' in blocked.stderr
  arguments = [f'--workdir={exported / "run"}', f'--out={tmp_path / "out"}']
  assert predict.main([*arguments, '--no-heat-maps', *map(str, images)]) == 0
  with (tmp_path / 'out' / 'scores.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  for line, row in zip(found.stdout.splitlines(), rows, strict=True):
    path, score, decision = line.split()
    assert (path, decision) == (row['path'], row['decision'])
    assert float(score) == pytest.approx(float(row['score']), rel=1e-5)


def test_example_runs_without_this_package(exported, tmp_path):
  run_example(exported, tmp_path, sys.executable)


@pytest.mark.slow  # two minutes
def test_example_runs_in_a_clean_environment(exported, tmp_path):
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  packages = ['jax', 'flatbuffers', 'pillow']
  subprocess.run([python, '-m', 'pip', 'install', '-q', *packages], check=True)
  run_example(exported, tmp_path, python)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--category=nut'], 'nut is not among them'),
    (['--workdir=nothing'], 'holds no run'),
    (['--false-alarm-rate=0.01'], 'support no false-alarm rate'),
    (['--out={root}/bolt.memkd/x'], 'bolt.memkd'),
  ],
)
def test_bad_input(exported, tmp_path, monkeypatch, capsys, arguments, message):
  monkeypatch.chdir(tmp_path)
  arguments = [argument.format(root=exported) for argument in arguments]
  assert export.main([f'--workdir={exported / "run"}', '--out=x.memkd', *arguments]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('export: ') and message in line
  assert list(tmp_path.iterdir()) == []


def test_images_of_the_example_are_resized_as_ours(exported):
  """The recipe in the metadata, for a picture with an orientation."""
  from memkd_jax.data.images import read_image

  path = exported / 'turned.jpg'
  exif = Image.Exif()
  exif[0x0112] = 6
  noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  Image.fromarray(noise).save(path, exif=exif)
  from PIL import ImageOps

  image = ImageOps.exif_transpose(Image.open(path)).convert('RGB')
  recipe = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(recipe, read_image(path, 32)[0])
