"""ONNX models: equal to the detector in onnxruntime, and refused where they are not."""

import json
import sys
import types

import numpy as np
import pytest

import memkd_jax
from memkd_jax import export
from memkd_jax.deploy import exported, onnx
from memkd_jax.errors import UserError
from memkd_jax.ops import winograd
from memkd_jax.run import run_config

SYSTEMS = {
  'memkd': {},
  'rd': {'model.memories': ()},
  'forward': {'model.paradigm': 'forward'},
  'bottleneck': {'model.backbone': 'tiny_bottleneck'},
}


@pytest.fixture
def onnxruntime():
  pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'")
  return pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def train_tiny(tmp_path_factory, make_config, make_category):
  """Gives the folder of a finished tiny run with held-out images."""

  def train_one(**changes):
    folder = tmp_path_factory.mktemp('run')
    make_category(folder / 'data', train=14, size=40)
    config = make_config(folder / 'data')
    config.update_from_flattened_dict({'train.epochs': 1, 'train.holdout': 0.3, **changes})
    run_config(config, folder / 'work', 'train')
    return folder / 'work'

  return train_one


@pytest.fixture(scope='module')
def workdir(train_tiny):
  return train_tiny()


@pytest.mark.parametrize(
  'system',
  [n if n == 'memkd' else pytest.param(n, marks=pytest.mark.slow) for n in SYSTEMS],
)
def test_the_model_is_the_detector(
  system, train_tiny, workdir, onnxruntime, tmp_path, rng, capsys
):
  if SYSTEMS[system]:
    workdir = train_tiny(**SYSTEMS[system])
  detector = memkd_jax.load(workdir, false_alarm_rate=0.3)
  out = tmp_path / 'bolt.onnx'
  arguments = [f'--workdir={workdir}', f'--out={out}', '--false-alarm-rate=0.3']
  assert export.main(arguments) == 0
  shown = capsys.readouterr().out
  assert 'in onnxruntime, on random images' in shown
  assert f'Wrote {out}: bolt, threshold ' in shown
  session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
  metadata = json.loads(session.get_modelmeta().custom_metadata_map['memkd_jax'])
  assert metadata == exported.metadata(detector)
  for number in (1, 2, 5, 16):
    images = rng.integers(0, 256, (number, 32, 32, 3), np.uint8)
    maps, scores = session.run(['maps', 'scores'], {'images': images})
    expected = detector(images)
    assert (maps.dtype, scores.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(maps, expected.maps, atol=1e-4)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    assert np.ptp(expected.maps) > 1e-3  # or any map would do
  # What is off for the conversion is on again.
  assert winograd.saves((16, 64, 64, 64), (3, 3, 64, 64))


def test_a_model_that_differs_is_not_written(workdir, onnxruntime, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx, '_TOLERANCE', -1.0)
  with pytest.raises(UserError, match=r'differ from those of JAX by .* nothing was written'):
    onnx.write(memkd_jax.load(workdir), tmp_path / 'x.onnx', {})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('package', ['jax2onnx', 'onnxruntime'])
def test_without_the_packages(workdir, tmp_path, monkeypatch, capsys, package):
  monkeypatch.setitem(sys.modules, 'jax2onnx', types.SimpleNamespace(to_onnx=None))
  monkeypatch.setitem(sys.modules, 'onnxruntime', types.ModuleType('onnxruntime'))
  monkeypatch.setitem(sys.modules, package, None)
  assert export.main([f'--workdir={workdir}', f'--out={tmp_path / "x.onnx"}']) == 1
  sentence = capsys.readouterr().err
  assert f"needs {package}, which is not installed: pip install 'memkd_jax[onnx]'" in sentence
  assert not list(tmp_path.iterdir())


def test_other_dtypes_are_refused(workdir, tmp_path):
  detector = memkd_jax.load(workdir)
  detector.trained.config.model.dtype = 'bfloat16'
  with pytest.raises(UserError, match='dtype=bfloat16 cannot be written as ONNX'):
    onnx.write(detector, tmp_path / 'x.onnx', {})
