import os
import subprocess
import sys

import pytest

from memkd_jax.runtime import determinism

FLAG = '--xla_gpu_deterministic_ops'


@pytest.mark.parametrize(
  ('before', 'after'),
  [
    (None, f'{FLAG}=true'),
    ('--xla_dump_to=x', f'--xla_dump_to=x {FLAG}=true'),
    (f'{FLAG}=false', f'{FLAG}=false'),
  ],
)
def test_the_users_flags_stay(monkeypatch, before, after):
  monkeypatch.setenv('XLA_FLAGS', before or '')
  determinism.enable()
  assert os.environ['XLA_FLAGS'] == after


def test_xla_reads_the_flag_after_the_import_of_jax(tmp_path):
  """XLA writes down with which flags it compiled."""
  program = (
    'import jax\nfrom memkd_jax.runtime import determinism\ndeterminism.enable()\n'
    'print(jax.jit(lambda x: x + 1)(1))'
  )
  environment = os.environ | {'XLA_FLAGS': f'--xla_dump_to={tmp_path} --xla_dump_hlo_as_text'}
  subprocess.run([sys.executable, '-c', program], env=environment, check=True)
  dumped = [p.read_text() for p in tmp_path.glob('*debug_options*')]
  assert dumped
  assert all('xla_gpu_deterministic_ops: true' in text for text in dumped)
