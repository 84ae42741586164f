"""Exported models as detectors: what they decide is what the run's model decides."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import memkd_jax
from memkd_jax import cli, export, predict, serve
from memkd_jax.deploy import from_file, runtimes
from memkd_jax.errors import UserError
from memkd_jax.run import run_config

every_runtime = pytest.mark.parametrize('runtime', runtimes.RUNTIMES)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, make_quick_config, make_category):
  """A run of nearest neighbours with three images held out."""
  folder = tmp_path_factory.mktemp('run')
  make_category(folder / 'data', train=14, size=40)
  config = make_quick_config(folder / 'data')
  config.train.holdout = 0.3
  run_config(config, folder / 'work', 'train')
  return folder / 'work'


@pytest.fixture(scope='module')
def write(workdir):
  """Exports with some flags; the file, and what the command said."""
  pytest.importorskip('jax2onnx', reason="needs pip install '.[onnx]'")

  def write_one(name, *flags):
    out, shown = workdir.parent / f'{name}.onnx', io.StringIO()
    with contextlib.redirect_stdout(shown):
      assert export.main([f'--workdir={workdir}', f'--out={out}', *flags]) == 0
    return out, shown.getvalue()

  return write_one


@pytest.fixture(scope='module')
def model(write):
  return write('bolt', '--false-alarm-rate=0.3')[0]


@pytest.fixture
def images(rng):
  return [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(6)]


@every_runtime
def test_it_says_what_the_run_says(workdir, model, images, runtime):
  if runtime not in runtimes.installed():
    pytest.skip(f'needs {runtime}')
  expected = memkd_jax.load(workdir, false_alarm_rate=0.3)
  detector = memkd_jax.load_file(model, runtime)
  detector.compile()
  found, right = detector(images), expected(images)
  np.testing.assert_allclose(found.maps, right.maps, atol=1e-4 * right.maps.max())
  np.testing.assert_allclose(found.scores, right.scores, rtol=1e-4)
  np.testing.assert_array_equal(found.p_values, right.p_values)
  np.testing.assert_array_equal(found.decisions, right.decisions)
  assert detector.threshold == expected.threshold
  assert detector.pixel_threshold() == expected.pixel_threshold()
  assert detector.pixel_threshold(0.01) == expected.pixel_threshold(0.01)
  for name in ('category', 'method', 'image_size', 'batch_size', 'bits', 'notes'):
    assert getattr(detector, name) == getattr(expected, name), name


def test_another_threshold_may_be_asked_for(workdir, model):
  detector = from_file.load_file(model, false_alarm_rate=0.5)
  assert detector.threshold == memkd_jax.load(workdir, false_alarm_rate=0.5).threshold
  by_hand = from_file.load_file(model, threshold=1.5)
  assert by_hand.threshold == memkd_jax.load(workdir, threshold=1.5).threshold
  with pytest.raises(UserError, match='support no false-alarm rate below'):
    from_file.load_file(model, false_alarm_rate=0.01)
  with pytest.raises(UserError, match='exclude each other'):
    from_file.load_file(model, false_alarm_rate=0.5, threshold=1.5)


def test_without_a_threshold_it_says_why(workdir, write):
  out, shown = write('undecided')
  detector = from_file.load_file(out)
  assert detector.threshold is None
  assert detector.undecided.startswith(memkd_jax.load(workdir).undecided)
  assert 'export it again (memkd export ' in detector.undecided
  assert 'no threshold' in shown


def test_a_threshold_by_hand_is_kept(write):
  detector = from_file.load_file(write('by_hand', '--threshold=1.25')[0])
  assert (detector.threshold.value, detector.threshold.false_alarm_rate) == (1.25, None)


@every_runtime
def test_a_fixed_batch_is_filled_up(model, write, images, runtime):
  if runtime not in runtimes.installed():
    pytest.skip(f'needs {runtime}')
  out, _ = write('fixed', '--batch=4')
  fixed, free = (from_file.load_file(file, runtime) for file in (out, model))
  assert fixed.batch_size == 4
  assert ', B 4' in json.loads(runtimes.open_model(out).metadata)['inputs']['images']
  np.testing.assert_allclose(fixed(images).maps, free(images).maps, atol=1e-4)


@every_runtime
def test_models_that_are_gone_leave_signals_alone(model, runtime):
  """In whatever order they go; a process of its own, for this one would not survive it."""
  if runtime not in runtimes.installed():
    pytest.skip(f'needs {runtime}')
  code = (
    'import faulthandler, signal, sys; from memkd_jax.deploy.from_file import load_file; '
    'faulthandler.enable(); one, two = (load_file(*sys.argv[1:]) for _ in range(2)); '
    'del one; del two; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); '
    'signal.raise_signal(signal.SIGTERM)'
  )
  command = [sys.executable, '-c', code, str(model), runtime]
  assert subprocess.run(command, timeout=300).returncode == 7


def test_half_the_bytes_are_nearly_the_same(model, write, images):
  out, shown = write('half', '--float16')
  assert out.stat().st_size < 0.8 * model.stat().st_size
  half, whole = (from_file.load_file(file)(images).maps for file in (out, model))
  difference = np.abs(half - whole).max()
  assert 0 < difference < 1e-2 * whole.max()
  assert ' in onnxruntime' in shown


def test_the_command_imports_no_jax(model, workdir):
  """Nor flax, and writes what it writes with the run's own model."""
  folder = workdir.parent / 'data/bolt/test'
  code = (
    'import sys; from memkd_jax import predict; code = predict.main(sys.argv[1:]); '
    'print(sorted({"jax", "flax", "optax", "orbax"} & sys.modules.keys())); sys.exit(code)'
  )
  rows = []
  for source in (f'--model={model}', f'--workdir={workdir}'):
    out = workdir.parent / source.split('=')[0].strip('-')
    flags = [source, f'--images={folder}', f'--out={out}', '--false-alarm-rate=0.3', '--masks']
    command = [sys.executable, '-c', code, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ('[]' in done.stdout) == (source.startswith('--model')), done.stdout
    text = (out / 'scores.csv').read_text()
    rows.append([line.split(',')[:4] for line in text.splitlines()])  # peaks may be ties
    pictures = sorted(str(file.relative_to(out)) for file in out.rglob('*.png'))
    rows[-1].append(pictures)
  for one, other in zip(*rows, strict=True):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
      assert a == b or abs(float(a) - float(b)) < 1e-3


def test_the_server_takes_files(model, capsys):
  flags = serve._parser().parse_args([f'--model={model}'])
  (served,) = serve._load_models(flags).values()
  assert isinstance(served, from_file.FileDetector)
  twice = serve._parser().parse_args([f'--model={model}', f'--model={model}'])
  with pytest.raises(UserError, match='same category'):
    serve._load_models(twice)


def test_a_run_and_a_file_exclude_each_other(capsys):
  for flags in (['--model=a.onnx', '--workdir=b'], []):
    with pytest.raises(SystemExit) as stop:
      predict.main([*flags, '--out=out', 'image.png'])
    assert stop.value.code == 2
  assert 'one of the arguments --workdir --model is required' in capsys.readouterr().err


def test_a_run_has_no_runtime(workdir, tmp_path, capsys):
  flags = [f'--workdir={workdir}', '--runtime=onnxruntime', f'--out={tmp_path}']
  assert predict.main([*flags, str(workdir.parent / 'data')]) == 1
  assert '--runtime is for a file of --model' in capsys.readouterr().err


@pytest.mark.parametrize('flag', ['--category=bolt', '--seed=1', '--teacher-weights=a.pth'])
def test_what_is_inside_is_not_named_again(flag, tmp_path):
  flags = predict._parser().parse_args(['--model=a.onnx', '--out=out', flag, 'image.png'])
  with pytest.raises(UserError, match=f'leave {flag.split("=")[0]} out'):
    cli.load_files(flags, ['a.onnx'])


def test_wrong_files_are_named(tmp_path, model):
  with pytest.raises(UserError, match=r'There is no model at .*none\.onnx'):
    from_file.load_file(tmp_path / 'none.onnx')
  with pytest.raises(UserError, match=r'is a program of JAX'):
    from_file.load_file(tmp_path / 'bolt.memkd')
  broken = tmp_path / 'broken.onnx'
  broken.write_bytes(model.read_bytes()[:-1000])
  for runtime in runtimes.installed():
    with pytest.raises(UserError, match=r'broken\.onnx cannot be read by .* Export it again'):
      from_file.load_file(broken, runtime)


def change(values, name, value):
  return json.dumps({**values, name: value} if name else value)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    (None, 1),
    ('image_size', '40'),
    ('batch', 'many'),
    ('held_out', {'scores': [1.0]}),
    ('threshold', {'value': None}),
    ('notes', None),
  ],
)
def test_other_metadata_are_refused(model, name, value):
  values = json.loads(runtimes.open_model(model).metadata)
  with pytest.raises(UserError, match='is no model that memkd export wrote'):
    from_file._parse(model, change(values, name, value))


def test_another_format_is_refused(model):
  values = json.loads(runtimes.open_model(model).metadata)
  with pytest.raises(UserError, match='another version of memkd_jax'):
    from_file._parse(model, change(values, 'format', 1))


def test_openvino_reports_nothing_to_anyone(model):
  if 'openvino' not in runtimes.installed():
    pytest.skip('needs openvino')
  code = (
    'import pathlib, sys; from memkd_jax.deploy.runtimes import open_model; '
    'open_model(pathlib.Path(sys.argv[1]), "openvino"); '
    'sys.exit(any("openvino_telemetry" in name for name in sys.modules))'
  )
  assert subprocess.run([sys.executable, '-c', code, str(model)], timeout=300).returncode == 0


def test_a_missing_runtime_is_named(model, monkeypatch):
  monkeypatch.setattr(runtimes, 'installed', lambda: ['onnxruntime'])
  with pytest.raises(
    UserError, match='--runtime=openvino is not installed: pip install openvino'
  ):
    from_file.load_file(model, 'openvino')
  monkeypatch.setattr(runtimes, 'installed', list)
  with pytest.raises(UserError, match='needs onnxruntime or openvino'):
    from_file.load_file(model)


@pytest.mark.parametrize('flag', ['--batch=2', '--float16'])
def test_a_program_of_jax_takes_no_flags_of_onnx(workdir, tmp_path, flag, capsys):
  assert export.main([f'--workdir={workdir}', f'--out={tmp_path / "a.memkd"}', flag]) == 1
  assert '--batch and --float16 are for ONNX models' in capsys.readouterr().err
