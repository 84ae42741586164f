"""What model.dtype=auto stands for."""

import json
import shutil
import types

import jax
import pytest

import memkd_jax
from memkd_jax import config as base
from memkd_jax import methods
from memkd_jax.config import dtype
from memkd_jax.errors import UserError
from memkd_jax.run import run_config
from memkd_jax.sweep import run_sweep

pytestmark = [pytest.mark.usefixtures('share_compilations'), pytest.mark.newest]


@pytest.fixture
def quick_config(make_quick_config, make_category, tmp_path):
  """A run of a second on a category, which says nothing of a dtype itself."""
  make_category(tmp_path / 'data', 'bolt')
  return make_quick_config(tmp_path / 'data')


@pytest.fixture
def measured(monkeypatch, tmp_path):
  """Ratios that are yet to be measured, in place of real ones."""
  ratios = [1.6, 9.9]
  monkeypatch.setenv('MEMKD_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(dtype, '_measure', lambda: ratios.pop(0))
  return ratios


@pytest.mark.parametrize(('ratio', 'chosen'), [(1.6, 'bfloat16'), (0.9, 'float32')])
def test_on_a_cpu_it_is_what_pays(measured, ratio, chosen):
  measured[0] = ratio
  name, why = dtype.choose()
  assert name == chosen
  assert f'{ratio} times as fast' in why


def test_a_ratio_is_measured_once_for_the_same_machine_and_flags(measured, monkeypatch):
  assert [dtype.speedup(), dtype.speedup()] == [1.6, 1.6]
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_onednn_custom_call=false')
  assert dtype.speedup() == 9.9


@pytest.mark.parametrize('content', ['', '[]', '{"a": "b"}', '{"a": null}'])
def test_a_file_of_ratios_that_is_none_is_replaced(measured, tmp_path, content):
  file = tmp_path / 'cache' / 'bfloat16.json'
  file.parent.mkdir(mode=0o700)
  file.write_text(content)
  assert dtype.speedup() == 1.6
  assert list(json.loads(file.read_text()).values()) == [1.6]


def test_where_it_cannot_be_kept_it_is_measured_again(measured, tmp_path):
  (tmp_path / 'cache').write_text('a file in place of the folder')
  assert [dtype.speedup(), dtype.speedup()] == [1.6, 9.9]


@pytest.mark.parametrize(
  ('platform', 'capability', 'chosen'),
  [
    ('gpu', '7.5', 'float32'),
    ('gpu', '9.0', 'bfloat16'),
    ('gpu', 'gfx90a', 'float32'),  # of AMD, about which nothing is known here
    ('gpu', None, 'float32'),
    ('tpu', None, 'bfloat16'),
  ],
)
def test_accelerators_are_known(monkeypatch, platform, capability, chosen):
  device = types.SimpleNamespace(
    platform=platform, device_kind='X', compute_capability=capability
  )
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  assert dtype.choose()[0] == chosen


def test_what_is_measured_is_the_ratio_of_the_medians(monkeypatch):
  clock, calls = [0.0], []

  def work(name):
    def run():
      calls.append(name)
      slow = len(calls) <= 2  # as the first of a machine that is at other work
      clock[0] += (100 if slow else 1) * {'float32': 3.0, 'bfloat16': 2.0}[name]

    return run

  monkeypatch.setattr(dtype, '_work', work)
  monkeypatch.setattr(dtype.time, 'perf_counter', lambda: clock[0])
  assert dtype._measure() == 1.5
  assert calls == ['float32', 'bfloat16'] * dtype._TURNS


def test_what_is_timed_is_a_convolution_with_its_gradients():
  inputs, kernel = dtype._work('bfloat16')()
  assert (inputs.shape, kernel.shape) == ((8, 32, 32, 128), (3, 3, 128, 128))
  assert inputs.dtype == kernel.dtype == 'bfloat16'


def test_a_run_says_what_it_is_and_goes_on_with_it(
  quick_config, measured, tmp_path, capsys, monkeypatch
):
  quick_config.model.dtype = base.AUTO_DTYPE
  run_config(quick_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (bfloat16 is 1.6 times as fast' in capsys.readouterr().out
  kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert kept['model']['dtype'] == 'bfloat16'
  monkeypatch.setattr(dtype, 'speedup', lambda: 0.5)  # a copy of it, on another machine
  run_config(quick_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (as before' in capsys.readouterr().out


def dtype_of(folder):
  return json.loads((folder / 'config.json').read_text())['model']['dtype']


def test_a_warm_start_goes_on_in_the_dtype_of_its_origin(
  tiny_config, measured, tmp_path, make_category
):
  make_category(tmp_path / 'data', 'bolt')
  tiny_config.model.memories, tiny_config.train.epochs = (), 1
  run_config(tiny_config, tmp_path / 'first')
  tiny_config.model.dtype = base.AUTO_DTYPE
  run_config(tiny_config, tmp_path / 'further', warm_start=tmp_path / 'first')
  run_config(tiny_config, tmp_path / 'one', warm_start=tmp_path / 'first' / 'bolt' / 'seed_0')
  assert [dtype_of(tmp_path / name) for name in ('further', 'one')] == ['float32'] * 2
  assert len(measured) == 2  # nothing was measured


def test_all_variants_compute_in_what_one_of_them_has(quick_config, measured, tmp_path):
  quick_config.model.dtype = 'float32'
  quick_config.sweep.variants = (('a', ()), ('b', (('method.share', 0.5),)))
  run_sweep(quick_config, tmp_path / 'sweep')
  shutil.rmtree(tmp_path / 'sweep' / 'a')
  quick_config.model.dtype = base.AUTO_DTYPE
  assert run_sweep(quick_config, tmp_path / 'sweep')['failed'] == {}
  assert [dtype_of(tmp_path / 'sweep' / name) for name in 'ab'] == ['float32'] * 2
  assert run_sweep(quick_config, tmp_path / 'other')['failed'] == {}
  assert [dtype_of(tmp_path / 'other' / name) for name in 'ab'] == ['bfloat16'] * 2
  assert len(measured) == 1


def test_a_model_is_loaded_in_a_dtype_that_there_is(quick_config, tmp_path):
  run_config(quick_config, tmp_path / 'run')
  half = memkd_jax.load(tmp_path / 'run', dtype='bfloat16')
  assert half.trained.config.model.dtype == 'bfloat16'
  with pytest.raises(UserError, match="dtype='int8': give one of float32, bfloat16"):
    memkd_jax.load(tmp_path / 'run', dtype='int8')


@pytest.mark.parametrize(('platform', 'default'), [('tpu', 'bfloat16'), ('gpu', 'float32')])
def test_the_default_is_up_to_the_platform(monkeypatch, platform, default):
  monkeypatch.setattr('memkd_jax.runtime.devices.backend', lambda: platform)
  config = methods.get_config('folder', 'knn')
  assert config.model.dtype == base.DEFAULT_DTYPE
  assert methods.resolve(config).model.dtype == default
  config.model.dtype = 'float64'
  assert methods.resolve(config).model.dtype == 'float64'


def test_a_run_goes_on_in_its_dtype_by_default(quick_config, tmp_path, capsys, monkeypatch):
  assert quick_config.model.dtype == base.DEFAULT_DTYPE
  monkeypatch.setattr('memkd_jax.runtime.devices.backend', lambda: 'tpu')
  run_config(quick_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (the default on a TPU;' in capsys.readouterr().out
  report = (tmp_path / 'run' / 'report.html').read_text()
  assert 'model.dtype bfloat16 (default float32)' in report
  monkeypatch.undo()
  run_config(quick_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (as before;' in capsys.readouterr().out
  run_config(quick_config, tmp_path / 'other')
  assert 'Computing in' not in capsys.readouterr().out
  assert [dtype_of(tmp_path / name) for name in ('run', 'other')] == ['bfloat16', 'float32']
