"""What model.dtype=auto stands for."""

import json
import types

import jax
import pytest

from memkd_jax import config as base
from memkd_jax.config import dtype
from memkd_jax.run import run_config


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
  [('gpu', '7.5', 'float32'), ('gpu', '9.0', 'bfloat16'), ('tpu', None, 'bfloat16')],
)
def test_accelerators_are_known(monkeypatch, platform, capability, chosen):
  device = types.SimpleNamespace(
    platform=platform, device_kind='X', compute_capability=capability
  )
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  assert dtype.choose()[0] == chosen


def test_what_is_measured_is_a_ratio_of_times():
  assert 0.01 < dtype._measure() < 100


def test_a_run_says_what_it_is_and_goes_on_with_it(
  tiny_config, measured, tmp_path, make_category, capsys, monkeypatch
):
  make_category(tmp_path / 'data', 'bolt')
  tiny_config.model.dtype = base.AUTO_DTYPE
  run_config(tiny_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (bfloat16 is 1.6 times as fast' in capsys.readouterr().out
  kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert kept['model']['dtype'] == 'bfloat16'
  monkeypatch.setattr(dtype, 'speedup', lambda: 0.5)  # a copy of it, on another machine
  run_config(tiny_config, tmp_path / 'run')
  assert 'Computing in bfloat16 (as before' in capsys.readouterr().out
