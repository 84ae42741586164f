"""ONNX models: equal to the detector in the runtimes, and refused where they are not."""

import contextlib
import functools
import io
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memkd_jax
from memkd_jax import export, methods
from memkd_jax.data.framing import filled, seen_of
from memkd_jax.data.tiling import Tiling
from memkd_jax.deploy import exported, onnx, runtimes
from memkd_jax.errors import UserError
from memkd_jax.ops import winograd
from memkd_jax.ops.resampling import resample
from memkd_jax.run import run_config
from memkd_jax.scoring import anomaly_map

SYSTEMS = {
  'memkd': {},
  'rd': {'model.memories': ()},
  'forward': {'model.paradigm': 'forward'},
  'bottleneck': {'model.backbone': 'tiny_bottleneck'},
  'add': {'model.fusion': 'add'},
  'aligned': {'model.memory_layout': 'aligned'},
  'adapted': {'model.adapt_teacher': True},
  'normalised': {
    'anomaly_map.normalize': 'position',
    'anomaly_map.image_score': 'top',
    'model.memories': (),
    'data.image_size': (32, 64),
    'data.roi': 'alpha',
  },
  'knn': {'data.tiles': (2, 2)},
  'patchcore': {
    'method.channels': 24,
    'method.joint_channels': 16,
    'data.resize': 'fit',
    'data.image_size': (32, 64),
  },
  'padim': {'method.channels': 9},
  'spade': {'method.images': 3},
  'cfa': {'method.gamma_c': 2, 'train.epochs': 1},
  'students': {'method.students': 2, 'method.stages': (1, 2), 'train.epochs': 2},
  'ensemble': {'model.memories': (), 'train.epochs': 2},
}
_AS_IN_USE = {'model.backbone': 'resnet18', 'data.image_size': 256}
LARGE = {'memkd at 256': _AS_IN_USE, 'ensemble at 256': _AS_IN_USE | {'train.epochs': 2}}
OF_OTHER_FAMILIES = ('knn', 'patchcore', 'padim', 'spade', 'cfa', 'students', 'ensemble')
# The others differ from these in the model's layers, not in what is done with maps, or take
# a minute.
QUICK = ('memkd', 'normalised', *(name for name in OF_OTHER_FAMILIES if name != 'students'))
every_system = pytest.mark.parametrize(
  'system', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SYSTEMS]
)


@pytest.fixture(scope='module')
def onnxruntime():
  pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'")
  return pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def train_tiny(tmp_path_factory, make_config, make_category):
  """Gives the folder of a system's finished tiny run with held-out images."""

  @functools.cache
  def train_one(system):
    folder = tmp_path_factory.mktemp('run')
    make_category(folder / 'data', train=14, size=40)
    config = tiny = make_config(folder / 'data')
    if (family := system.split()[0]) in OF_OTHER_FAMILIES:
      config = methods.get_config('folder', family)
      config.data, config.eval = tiny.data, tiny.eval
      for name in ('backbone', 'teacher_weights'):
        config.model[name] = tiny.model[name]
    else:
      config.train.epochs = 1
    config.train.holdout = 0.3
    config.update_from_flattened_dict((SYSTEMS | LARGE)[system])
    run_config(config, folder / 'work', 'train')
    return folder / 'work'

  return train_one


@pytest.fixture(scope='module')
def export_tiny(train_tiny, onnxruntime):
  """Gives the ONNX file of a system, and what the command said."""

  @functools.cache
  def export_one(system):
    workdir = train_tiny(system)
    out, shown = workdir.parent / 'bolt.onnx', io.StringIO()
    arguments = [f'--workdir={workdir}', f'--out={out}', '--false-alarm-rate=0.3']
    with contextlib.redirect_stdout(shown):
      assert export.main(arguments) == 0
    return out, shown.getvalue()

  return export_one


@pytest.fixture(scope='module')
def workdir(train_tiny):
  return train_tiny('memkd')


@every_system
def test_the_model_is_the_detector(system, train_tiny, export_tiny, onnxruntime, rng):
  out, shown = export_tiny(system)
  assert 'On random images maps differ from those of JAX at most by ' in shown
  assert ' in onnxruntime' in shown
  assert f'Wrote {out}: bolt, threshold ' in shown
  session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
  detector = memkd_jax.load(train_tiny(system), false_alarm_rate=0.3)
  metadata = json.loads(session.get_modelmeta().custom_metadata_map['memkd_jax'])
  assert metadata == exported.metadata(detector)
  check_equal(lambda x: session.run(['maps', 'scores'], {'images': x}), detector, rng)
  # What is off for the conversion is on again.
  assert winograd.saves((16, 64, 64, 64), (3, 3, 64, 64))


@every_system
def test_openvino_runs_it(system, train_tiny, export_tiny, rng):
  if 'openvino' not in runtimes.installed():
    pytest.skip("needs pip install '.[openvino]'")
  out, _ = export_tiny(system)
  run = runtimes.open_model(out, 'openvino').run
  check_equal(run, memkd_jax.load(train_tiny(system)), rng)


@pytest.mark.parametrize('runtime', runtimes.RUNTIMES)
@pytest.mark.parametrize(
  ('system', 'size'), [('knn', (56, 56)), ('patchcore', (32, 64)), ('normalised', (32, 64))]
)
def test_whoever_runs_the_file_cuts_and_frames(
  system, size, runtime, train_tiny, export_tiny, rng
):
  if runtime not in runtimes.installed():
    pytest.skip(f'needs {runtime}')
  out, _ = export_tiny(system)
  images = rng.integers(0, 256, (3, 70, 50, 4), np.uint8)
  expected = memkd_jax.load(train_tiny(system))(images)
  found = memkd_jax.load_file(out, runtime)(images)
  assert found.maps.shape == expected.maps.shape == (3, *size)
  np.testing.assert_allclose(found.maps, expected.maps, atol=1e-3)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


_PEAK = """
import pathlib, re, sys
import numpy as np
from memkd_jax.deploy.runtimes import open_model
model = open_model(pathlib.Path(sys.argv[1]), 'openvino')
for number in (1, 16):
  model.run(np.zeros((number, 256, 256, 3), np.uint8))
status = pathlib.Path('/proc/self/status').read_text()
print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='no peak is told here')
@pytest.mark.parametrize('system', LARGE)
def test_openvino_takes_less_than_two_gigabytes(system, export_tiny):
  if 'openvino' not in runtimes.installed():
    pytest.skip("needs pip install '.[openvino]'")
  out, _ = export_tiny(system)
  command = [sys.executable, '-c', _PEAK, str(out)]
  shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  print(f'{system}: {int(shown) / 1e6:.2f} GB in OpenVINO')
  assert int(shown) < 2e6  # kB


def check_equal(run, detector, rng):
  """Whether a runtime gives the detector's maps and scores, for several numbers of images."""
  detector.tiling = Tiling(detector.image_size)  # a file takes tiles, and cuts none
  for number in (1, 2, 5, 16):
    images = rng.integers(0, 256, (number, *detector.tile_shape), np.uint8)
    if images.shape[-1] == 4:
      images[..., 3] = np.where(images[..., 3] < 128, 0, 255)
    maps, scores = run(images)
    expected = detector.score_canvases(images)
    counting = [seen_of(image) for image in images]
    maps = np.stack(
      [m if s is None else filled(m, s) for m, s in zip(maps, counting, strict=True)]
    )
    assert (maps.dtype, scores.dtype) == (np.float32, np.float32)
    tolerance = 1e-4 * max(1.0, float(np.abs(expected.maps).max()))
    np.testing.assert_allclose(maps, expected.maps, atol=tolerance)
    np.testing.assert_allclose(scores, expected.scores, atol=tolerance)
    assert np.ptp(expected.maps) > 1e-3  # or any map would do


@every_system
def test_no_constant_is_expanded(system, export_tiny):
  """At 256 pixels a copy for each pixel or position takes megabytes to gigabytes."""
  onnx_format = pytest.importorskip('onnx')
  nodes = onnx_format.load(export_tiny(system)[0]).graph.node
  products = [node for node in nodes if node.op_type == 'Einsum']
  assert products
  for node in products:
    assert len(node.input) == 2
    assert b'...' not in node.attribute[0].s  # for which jax2onnx repeats the smaller operand


def test_a_model_that_differs_is_not_written(onnxruntime, workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(onnx, '_TOLERANCE', -1.0)
  with pytest.raises(UserError, match=r'differ from those of JAX by .* nothing was written'):
    onnx.write(memkd_jax.load(workdir), tmp_path / 'x.onnx', {})
  assert not list(tmp_path.iterdir())


def resample_at_once(maps, matrix, _):
  return jnp.einsum('ij,bjk,lk->bil', matrix, maps, matrix)


def resample_in_a_loop(maps, matrix, _):
  return jax.lax.fori_loop(0, 2, lambda _, x: x / 2, resample(maps, matrix, matrix))


@pytest.mark.parametrize(
  ('change', 'operator'),
  [(resample_at_once, 'Einsum of 3 operands'), (resample_in_a_loop, 'Loop')],
)
def test_operators_that_not_all_runtimes_can_run(
  workdir, onnxruntime, tmp_path, monkeypatch, change, operator
):
  monkeypatch.setattr(anomaly_map, 'resample', change)
  with pytest.raises(UserError, match=f'needs {operator}, which not every runtime can run'):
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


@pytest.mark.parametrize(
  'make', ['make_quick_config', pytest.param('make_config', marks=pytest.mark.slow)]
)
def test_a_model_in_bfloat16_becomes_a_file_in_float32(
  make, request, make_category, tmp_path, onnxruntime, capsys, rng
):
  make_category(tmp_path / 'data', train=14, size=40)
  config, half = request.getfixturevalue(make)(tmp_path / 'data'), tmp_path / 'half'
  config.model.dtype, config.train.holdout = 'bfloat16', 0.3
  run_config(config, half, 'train')
  out = tmp_path / 'x.onnx'
  assert export.main([f'--workdir={half}', f'--out={out}']) == 0
  assert 'the model computes in bfloat16 and the file in float32' in capsys.readouterr().out
  session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
  detector = memkd_jax.load(half, dtype='float32')
  check_equal(lambda x: session.run(['maps', 'scores'], {'images': x}), detector, rng)
  rounded = memkd_jax.load(half)
  assert rounded.trained.config.model.dtype == 'bfloat16'
  image = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
  assert np.any(rounded(image).maps != detector(image).maps)


def test_other_dtypes_are_refused(workdir, tmp_path):
  detector = memkd_jax.load(workdir)
  detector.trained.config.model.dtype = 'bfloat16'
  with pytest.raises(UserError, match='dtype=bfloat16 cannot be written as ONNX'):
    onnx.write(detector, tmp_path / 'x.onnx', {})
