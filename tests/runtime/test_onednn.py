import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax._src import xla_bridge

from memkd_jax.runtime import onednn

FLAG = '--xla_cpu_experimental_onednn_custom_call'


@pytest.fixture
def not_started(monkeypatch):
  """As in a process whose JAX has not computed yet."""
  monkeypatch.setattr(xla_bridge, 'backends_are_initialized', lambda: False)
  monkeypatch.setattr(onednn.platform, 'system', lambda: 'Linux')
  monkeypatch.setattr(onednn.platform, 'machine', lambda: 'x86_64')
  monkeypatch.setattr(onednn, 'version', lambda package: '0.12.3')
  monkeypatch.setenv('XLA_FLAGS', '')


@pytest.mark.parametrize(
  ('release', 'machine', 'before', 'after'),
  [
    ('0.12.3', 'x86_64', '--xla_dump_to=x', f'--xla_dump_to=x {FLAG}=true'),
    ('0.12.3', 'x86_64', f'{FLAG}=false', f'{FLAG}=false'),
    ('0.12.3', 'x86_64', '/a/file/of/flags', '/a/file/of/flags'),
    ('0.12.3', 'aarch64', '', ''),
    ('0.10.2', 'x86_64', '', ''),
    ('0.13.0', 'x86_64', '', ''),  # which may not know the flag, and would die of it
  ],
)
def test_it_is_asked_for_where_xla_knows_it(
  monkeypatch, not_started, release, machine, before, after
):
  monkeypatch.setenv('XLA_FLAGS', before)
  monkeypatch.setattr(onednn.platform, 'machine', lambda: machine)
  monkeypatch.setattr(onednn, 'version', lambda package: release)
  onednn.ask_for_it('bfloat16')
  assert os.environ['XLA_FLAGS'] == after


@pytest.mark.parametrize(
  ('dtypes', 'asked'),
  [
    (('float32',), False),
    (('float64', None), False),
    ((), False),
    (('auto',), True),
    (('float32', 'bfloat16'), True),
  ],
)
def test_it_is_asked_for_where_bfloat16_may_be_computed(not_started, dtypes, asked):
  onednn.ask_for_it(*dtypes)
  assert (FLAG in os.environ['XLA_FLAGS']) == asked


def test_it_is_not_asked_for_once_jax_computes(monkeypatch):
  monkeypatch.setattr(onednn, 'version', lambda package: '0.12.3')
  jax.devices()
  before = os.environ.get('XLA_FLAGS')
  onednn.ask_for_it('bfloat16')
  assert os.environ.get('XLA_FLAGS') == before


def _multiplies_bfloat16() -> bool:
  try:
    flags = Path('/proc/cpuinfo').read_text().split()
  except OSError:
    return False
  return 'avx512_bf16' in flags or 'amx_bf16' in flags


_PROGRAM = """
import re
from memkd_jax.runtime import onednn
onednn.ask_for_it('bfloat16')
import jax, jax.numpy as jnp
from jax import lax
from memkd_jax.ops.convolution import convolution
layout = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
def both(stride, x, k):
  y, back = jax.vjp(lambda x, k: convolution(
    x, k, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout), x, k)
  return y, back(y)
x, k = jnp.ones((2, 16, 16, 32), 'bfloat16'), jnp.ones((3, 3, 32, 32), 'bfloat16')
for stride in (1, 2):
  text = jax.jit(both, static_argnums=0).lower(stride, x, k).compile().as_text()
  print(len(re.findall(r'custom_call_target="__onednn.convolution"', text)),
        len(re.findall(r' convolution[(]', text)))
"""


@pytest.mark.skipif(not jax.__version__.startswith('0.12.'), reason='this JAX is not asked')
@pytest.mark.skipif(not _multiplies_bfloat16(), reason='the processor lacks bfloat16')
def test_convolutions_in_bfloat16_and_their_gradients_are_its_own():
  environment = os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, '-c', _PROGRAM]
  ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  assert ran.stdout.split('\n')[:2] == ['3 0', '3 0']
